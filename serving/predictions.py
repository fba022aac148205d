"""What a model says of an image, or of the images of a study."""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

from trainer.export import signature

# Fields of `Prediction` are called as the outputs are, but for the overlay.
REQUIRED = ("probabilities", "label", "label_index", "score", "valid")
_NUMBERS = (
    "probabilities",
    "score",
    "out_of_distribution",
    "threshold",
    "study_threshold",
)
_TUPLES = ("probabilities", "class_names", "prediction_set")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        probabilities: one per class, in the order of the class names.
        label: name of the most probable class.
        label_index: its index.
        score: probability of the positive class, or of `label`.
        decision: whether `score` reaches the threshold; None if the model has
            more than two classes.
        valid: False if the server could not decode the image; then the other
            fields mean nothing.
        out_of_distribution: how unlike the training images it is, above 1 is
            unusual; None if the model does not say.
        is_out_of_distribution: whether it is above 1, or None.
        overlay: PNG of what the label rests on, if `explain` asked for it.
        decision_label: name of the class that was decided on, or None.
        threshold: of the decision, or None.
        class_names: in the order of the probabilities, or None.
        prediction_set: per class, whether it is left possible, or None; where
            it holds several, the answer is uncertain.
        study_rule: how scores of a patient's images become one, or None.
        study_threshold: threshold on that score, or None.
    """

    probabilities: tuple[float, ...]
    label: str
    label_index: int
    score: float
    decision: bool | None
    valid: bool
    out_of_distribution: float | None = None
    is_out_of_distribution: bool | None = None
    overlay: bytes | None = dataclasses.field(default=None, repr=False)
    decision_label: str | None = None
    threshold: float | None = None
    class_names: tuple[str, ...] | None = None
    prediction_set: tuple[bool, ...] | None = None
    study_rule: str | None = None
    study_threshold: float | None = None

    @property
    def possible(self) -> tuple[str, ...]:
        """Names of the classes in the prediction set, none if unknown."""
        if self.class_names is None or self.prediction_set is None:
            return ()
        return tuple(itertools.compress(self.class_names, self.prediction_set))


def read_columns(outputs: dict, num_images: int) -> list[Prediction]:
    """Returns predictions from the columns of an answer with the `REQUIRED`."""
    unknown = [None] * num_images
    columns = {
        field.name: outputs.get(field.name, unknown)
        for field in dataclasses.fields(Prediction)
    }
    # The model's numbers are float32. REST writes them with the digits that
    # tell them apart, which as doubles would differ from what gRPC carries.
    for name in _NUMBERS:
        if name in outputs:
            columns[name] = np.float32(outputs[name]).tolist()
    for name in _TUPLES:
        if name in outputs:
            columns[name] = map(tuple, columns[name])
    # Empty for an image that cannot be decoded.
    overlays = outputs.get(signature.OVERLAY, unknown)
    columns["overlay"] = [overlay or None for overlay in overlays]
    return [Prediction(*row) for row in zip(*columns.values(), strict=True)]


def combine(predictions: Iterable[Prediction]) -> Prediction:
    """What the model says of a patient, from what it says of the images.

    As in the report of the run: by the rule and the threshold that the model
    was exported with, or the mean of more than two classes.

    Args:
        predictions: of all images of a study, such as the slices of a volume;
            those that are not valid are left out.

    Returns:
        Its `decision` is None if the model has no threshold for patients,
        there is no prediction set, and `out_of_distribution` is the median of
        the images. Not valid if no image is.

    Raises:
        ValueError: there is no prediction, or the model tells no class names.
    """
    from trainer.evaluation import studies  # slow to import

    every = list(predictions)
    if not every:
        raise ValueError("There must be at least one prediction of a study.")
    images = [image for image in every if image.valid]
    if not images:
        return every[0]
    first = images[0]
    if first.class_names is None:
        raise ValueError(
            "The model tells no class names, which a study needs: export it "
            "again with this version of Lightbox."
        )
    positive = None
    if first.decision_label is not None:
        decided = first.class_names.index(first.decision_label)
        positive = decided if first.decision else 1 - decided
    probabilities = studies.combine(
        np.array([image.probabilities for image in images]),
        first.study_rule or studies.DEFAULT_RULE,
        positive,
    )
    index = int(probabilities.argmax())
    score = float(probabilities[index if positive is None else positive])
    decision = decision_label = None
    if positive is not None and first.study_threshold is not None:
        decision = score >= first.study_threshold
        called = positive if decision else 1 - positive
        decision_label = first.class_names[called]
    unlike = None
    if first.out_of_distribution is not None:
        far = [image.out_of_distribution or 0.0 for image in images]
        unlike = float(np.median(far))
    return Prediction(
        probabilities=tuple(probabilities.tolist()),
        label=first.class_names[index],
        label_index=index,
        score=score,
        decision=decision,
        valid=True,
        out_of_distribution=unlike,
        is_out_of_distribution=None if unlike is None else unlike > 1,
        decision_label=decision_label,
        threshold=first.study_threshold,
        class_names=first.class_names,
        study_rule=first.study_rule,
        study_threshold=first.study_threshold,
    )
