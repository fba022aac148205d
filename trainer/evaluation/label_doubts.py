"""Labels that a model contradicts which has not seen the patient.

Confident learning: Northcutt et al., 2021, "Confident Learning: Estimating
Uncertainty in Dataset Labels". From a class's threshold on, the mean of its
probability over the images that are labelled so, an image is confidently of
it. Doubtful is what stands off the diagonal of the count of labels and
confident classes, unless the label is the most probable class all the same.
"""

import dataclasses

import numpy as np

from trainer.evaluation import proportions, results
from trainer.evaluation.predictions import Decided

_ROUNDING = 1e-6
_LEAST = 1e-30
_MOST_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Doubts:
    """Doubtful labels of predictions.

    Attributes:
        ranked: int `[doubtful]`, images, the most doubtful first.
        suggested: int `[doubtful]`, the class that each confidently is of.
        probabilities: float64 `[images, classes]`, by `match_shares`; NaN for
            images without an answer.
        share: of the images whose label is doubtful.
    """

    ranked: np.ndarray
    suggested: np.ndarray
    probabilities: np.ndarray
    share: results.Proportion


def margins(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Probability of the label less that of the best other class `[images]`."""
    is_label = np.eye(probabilities.shape[1], dtype=bool)[labels]
    others = np.where(is_label, -np.inf, probabilities)
    return probabilities[is_label] - others.max(axis=1)


def confident_classes(
    labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """The class that each image confidently is of, int `[images]`, -1: none."""
    of_class = labels[:, np.newaxis] == np.arange(probabilities.shape[1])
    totals = np.where(of_class, probabilities, 0).sum(axis=0)
    counts = of_class.sum(axis=0)
    # Nothing is of a class without labels.
    thresholds = np.where(counts, totals / np.maximum(counts, 1), np.inf)
    is_confident = probabilities >= thresholds - _ROUNDING
    confident = np.where(is_confident, probabilities, -1)
    return np.where(is_confident.any(axis=1), confident.argmax(axis=1), -1)


def rank(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Images whose label is doubtful, most of all first, and suggestions."""
    confident = confident_classes(labels, probabilities)
    margin = margins(labels, probabilities)
    is_doubtful = (confident >= 0) & (confident != labels) & (margin < 0)
    order = np.argsort(margin, kind="stable")
    ranked = order[is_doubtful[order]]
    return ranked, confident[ranked]


def match_shares(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities whose means are the shares of the labels.

    A model that was trained with classes weighed alike finds rare ones too
    probable. Odds between two classes change by the same factor for all images
    (Saerens et al., 2002, "Adjusting the Outputs of a Classifier to New a
    Priori Probabilities").
    """
    shares = np.bincount(labels, minlength=probabilities.shape[1]) / len(labels)
    matched = probabilities
    for _ in range(_MOST_STEPS):
        means = matched.mean(axis=0)
        if np.abs(means - shares).max() < _ROUNDING:
            break
        matched = matched * shares / np.maximum(means, _LEAST)
        matched = matched / matched.sum(axis=1, keepdims=True)
    return matched


def find(predictions: Decided) -> Doubts:
    """Doubtful labels of images that were judged by models of other folds.

    Args:
        predictions: of images that took no part in the training of the model
            that judged them, nor did others of their group.
    """
    answered = np.flatnonzero(predictions.is_finite)
    labels = predictions.labels[answered]
    probabilities = np.full(predictions.probabilities.shape, np.nan)
    if len(answered):
        probabilities[answered] = match_shares(
            labels, predictions.probabilities[answered]
        )
    ranked, suggested = rank(labels, probabilities[answered])
    is_doubtful = np.isin(np.arange(len(answered)), ranked)
    return Doubts(
        answered[ranked],
        suggested,
        probabilities,
        proportions.proportion(
            is_doubtful,
            np.asarray(predictions.groups)[answered],
            "no image was judged",
        ),
    )
