"""What a model said of each image of a split, and `predictions.csv`."""

import csv
import dataclasses
import io

import numpy as np
from scipy import special

COLUMNS = ("split", "id", "group", "label", "predicted", "score", "decision")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of one split, in the order of its records.

    Attributes:
        ids: of the images, length `images`.
        groups: patient or duplicate group of each image.
        labels: int32 `[images]`, the true classes.
        logits: float32 `[images, classes]`, before calibration.
        temperature: the logits are divided by it before the softmax.
        decisions: int `[images]`, the classes that were decided on by rules
            of their own: a served model's, or those of several folds; None
            where an operating point decides.
    """

    ids: list[str]
    groups: list[str]
    labels: np.ndarray
    logits: np.ndarray
    temperature: float = 1.0
    decisions: np.ndarray | None = None

    @property
    def is_finite(self) -> np.ndarray:
        """Whether the model gave an image an answer, bool `[images]`."""
        return np.isfinite(self.logits).all(axis=-1)

    def select(self, images: np.ndarray) -> "Predictions":
        """Those of some images, given as bool `[images]` or as indices."""
        chosen = np.arange(len(self.labels))[images]
        return dataclasses.replace(
            self,
            ids=[self.ids[i] for i in chosen],
            groups=[self.groups[i] for i in chosen],
            labels=self.labels[chosen],
            logits=self.logits[chosen],
            decisions=None
            if self.decisions is None
            else self.decisions[chosen],
        )

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated, float64 `[images, classes]`."""
        logits = self.logits.astype(np.float64) / self.temperature
        with np.errstate(invalid="ignore"):  # no answer: see `is_finite`
            return special.softmax(logits, axis=-1)

    def scores(self, positive_index: int | None) -> np.ndarray:
        """Probability of the positive class, or of the most probable one."""
        if positive_index is None:
            return self.probabilities.max(axis=-1)
        return self.probabilities[:, positive_index]

    def decided(
        self, positive_index: int | None, operating_point: float | None
    ) -> np.ndarray:
        """The class that is decided on, int64 `[images]`.

        `decisions`, if there are any. Else for two classes the positive one
        where its probability reaches the operating point, and for more the
        most probable one.
        """
        if self.decisions is not None:
            return self.decisions
        if positive_index is None:
            return self.logits.argmax(axis=-1)
        is_positive = self.scores(positive_index) >= operating_point
        return np.where(is_positive, positive_index, 1 - positive_index)


def predictions_csv(
    predictions: dict[str, Predictions],
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
) -> str:
    """The text of `predictions.csv`.

    Args:
        predictions: by split.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        operating_point: threshold on the score, None unless there are two.

    Returns:
        A row per image: `COLUMNS` and a column `probability_CLASS` per class.
        `predicted` is the most probable class, `decision` the one that the
        operating point decides on. Nine digits, which float32 survives.
        Where the model gave no finite answer, both are empty.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"probability_{n}" for n in class_names)])
    for split, p in predictions.items():
        probabilities = p.probabilities
        predicted = p.logits.argmax(axis=-1)
        scores = p.scores(positive_index)
        decided = p.decided(positive_index, operating_point)
        for i, is_finite in enumerate(p.is_finite):
            writer.writerow(
                [
                    split,
                    p.ids[i],
                    p.groups[i],
                    class_names[p.labels[i]],
                    class_names[predicted[i]] if is_finite else "",
                    f"{scores[i]:.9g}",
                    class_names[decided[i]] if is_finite else "",
                    *(f"{value:.9g}" for value in probabilities[i]),
                ]
            )
    return buffer.getvalue()
