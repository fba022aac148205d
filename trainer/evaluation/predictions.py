"""What a model said of each image of a split, and what is decided by it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from scipy import special

_Self = TypeVar("_Self", bound="Predictions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of one split, in the order of its records.

    Attributes:
        ids: of the images, length `images`.
        groups: patient or duplicate group of each image.
        labels: int32 `[images]`, the true classes.
        logits: float32 `[images, classes]`, before calibration.
        own_decisions: int `[images]`, the classes that were decided on by
            rules of their own: a served model's, or those of several folds;
            None where an operating point decides.
    """

    ids: list[str]
    groups: list[str]
    labels: np.ndarray
    logits: np.ndarray
    own_decisions: np.ndarray | None = None

    @property
    def is_finite(self) -> np.ndarray:
        """Whether the model gave an image an answer, bool `[images]`."""
        return np.isfinite(self.logits).all(axis=-1)

    def select(self: _Self, images: np.ndarray) -> _Self:
        """Those of some images, given as bool `[images]` or as indices."""
        chosen = np.arange(len(self.labels))[images]
        return dataclasses.replace(
            self,
            ids=[self.ids[i] for i in chosen],
            groups=[self.groups[i] for i in chosen],
            labels=self.labels[chosen],
            logits=self.logits[chosen],
            own_decisions=None
            if self.own_decisions is None
            else self.own_decisions[chosen],
        )

    def decide(
        self,
        class_names: tuple[str, ...],
        positive_index: int | None,
        operating_point: float | None = None,
        temperature: float = 1.0,
        set_thresholds: tuple[float, ...] | None = None,
        ranks: tuple[int, ...] = (),
    ) -> "Decided":
        """The same with what was chosen; see `Decided` for the arguments."""
        fields = [field.name for field in dataclasses.fields(Predictions)]
        return Decided(
            class_names=class_names,
            positive_index=positive_index,
            operating_point=operating_point,
            temperature=temperature,
            set_thresholds=set_thresholds,
            ranks=ranks,
            **{name: getattr(self, name) for name in fields},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decided(Predictions):
    """Predictions that were calibrated and decided.

    Attributes:
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        operating_point: threshold on the score, None unless there are two
            classes and no decisions of their own.
        temperature: the logits are divided by it before the softmax.
        set_thresholds: per class, the probability from which a prediction set
            holds it; None if there are no sets.
        ranks: of the classes, if they have an order, else none.
    """

    class_names: tuple[str, ...]
    positive_index: int | None
    operating_point: float | None
    temperature: float
    set_thresholds: tuple[float, ...] | None = None
    ranks: tuple[int, ...] = ()

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Calibrated, float64 `[images, classes]`."""
        logits = self.logits.astype(np.float64) / self.temperature
        with np.errstate(invalid="ignore"):  # no answer: see `is_finite`
            return special.softmax(logits, axis=-1)

    @property
    def scores(self) -> np.ndarray:
        """Probability of the positive class, or of the most probable one."""
        if self.positive_index is None:
            return self.probabilities.max(axis=-1)
        return self.probabilities[:, self.positive_index]

    @functools.cached_property
    def decisions(self) -> np.ndarray:
        """The class that is decided on, int64 `[images]`.

        For two classes the positive one where its probability reaches the
        operating point, and for more the most probable one.
        """
        if self.own_decisions is not None:
            return self.own_decisions
        if self.positive_index is None:
            return self.logits.argmax(axis=-1)
        is_positive = self.scores >= self.operating_point
        return np.where(
            is_positive, self.positive_index, 1 - self.positive_index
        )

    @property
    def prediction_sets(self) -> np.ndarray:
        """Classes that are left possible, bool `[images, classes]`.

        The class decided on is always one; without an answer there is none.
        """
        classes = np.arange(len(self.class_names))
        sets = self.probabilities >= np.array(self.set_thresholds)
        sets |= self.decisions[:, np.newaxis] == classes
        return sets & self.is_finite[:, np.newaxis]


_SomePredictions = TypeVar("_SomePredictions", bound=Predictions)


def concatenate(parts: Sequence[_SomePredictions]) -> _SomePredictions:
    """Several predictions as one, with the choices of the first."""
    own = [p.own_decisions for p in parts if p.own_decisions is not None]
    return dataclasses.replace(
        parts[0],
        ids=[name for part in parts for name in part.ids],
        groups=[group for part in parts for group in part.groups],
        labels=np.concatenate([part.labels for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
        own_decisions=np.concatenate(own) if own else None,
    )


def make_predictions(
    ids: list[str], groups: list[str], labels: list[int], logits: np.ndarray
) -> Predictions:
    """Ties the model's outputs to the records they belong to.

    Args:
        ids: of the images, in the order of the records.
        groups: likewise.
        labels: likewise.
        logits: float32 `[images, K]`, likewise; K = 1 is the logit of label 1.
            A logit z becomes [0, z], since sigmoid(z) = softmax([0, z])[1].
    """
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    return Predictions(
        ids=ids,
        groups=groups,
        labels=np.asarray(labels, np.int32),
        logits=logits,
    )
