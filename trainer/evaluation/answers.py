"""What a model answered, without what it was asked about."""

import dataclasses

import numpy as np

IMAGE, STUDY = "image", "study"


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers of one model, in their order.

    Attributes:
        unit: what each is of, `IMAGE` or `STUDY`.
        class_names: of the model.
        threshold: of its decisions, None for more than two classes.
        scores: float `[answers]`, probability of the positive class, or of the
            most probable one.
        decisions: int `[answers]`, the classes decided on.
        unlikeness: float `[answers]`, above 1 an image is unlike the training
            set; NaN where that is not known.
    """

    unit: str
    class_names: tuple[str, ...]
    threshold: float | None
    scores: np.ndarray
    decisions: np.ndarray
    unlikeness: np.ndarray
