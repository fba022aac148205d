"""Metrics of how scores rank images: ROC AUC, average precision, DeLong.

The areas take weights `[resamples, images]`, so that all resamples of a
bootstrap share one sort of the scores.
"""

import numpy as np
from scipy import special

from trainer.evaluation import intervals, results

_FEWEST = 10  # images of a class: DeLong's variance is one of large samples


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Their quotient, NaN where there is nothing below."""
    return np.divide(
        above, below, out=np.full(np.shape(below), np.nan), where=below > 0
    )


def _weights_by_score(
    is_positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of positives and negatives at each score, in rising order."""
    values, position = np.unique(scores, return_inverse=True)
    order = np.argsort(position, kind="stable")
    sorted_weights = weights[:, order]
    positive = np.where(is_positive[order], sorted_weights, 0.0)
    negative = sorted_weights - positive
    if len(values) < len(scores):  # tied scores are one step of a curve
        starts = np.searchsorted(position[order], np.arange(len(values)))
        positive = np.add.reduceat(positive, starts, axis=1)
        negative = np.add.reduceat(negative, starts, axis=1)
    return positive, negative


def roc_auc(
    is_positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Share of pairs of a positive and a negative that are ranked right.

    Ties count half (Mann and Whitney, 1947, "On a Test of Whether one of Two
    Random Variables is Stochastically Larger than the Other").

    Args:
        is_positive: bool `[images]`.
        scores: `[images]`.
        weights: `[resamples, images]`.

    Returns:
        float64 `[resamples]`, NaN where there is one class only.
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    positive, negative = _weights_by_score(is_positive, scores, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    wins = np.einsum("ij,ij->i", positive, below)
    return ratio(wins, positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(
    is_positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Precision at every threshold, weighted by the recall it adds.

    As scikit-learn's `average_precision_score`; NaN where there is no positive.
    Arguments as of `roc_auc`.
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    positive, negative = _weights_by_score(is_positive, scores, weights)
    positive, negative = positive[:, ::-1], negative[:, ::-1]
    true = np.cumsum(positive, axis=1)
    called = true + np.cumsum(negative, axis=1)
    precision = np.divide(
        true, called, out=np.zeros_like(true), where=called > 0
    )
    return ratio(np.einsum("ij,ij->i", positive, precision), true[:, -1])


def _placements(
    is_positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the other class that each positive and negative beats."""
    from scipy import stats  # slow to import, and --help needs none of it

    positive, negative = scores[is_positive], scores[~is_positive]
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    above = ranks[: len(positive)] - stats.rankdata(positive)
    below = ranks[len(positive) :] - stats.rankdata(negative)
    return above / len(negative), 1 - below / len(positive)


def _spread(
    of_positives: np.ndarray, of_negatives: np.ndarray
) -> tuple[float, float]:
    """Half the width of an interval, and the variance of a mean."""
    variance = sum(p.var(ddof=1) / len(p) for p in (of_positives, of_negatives))
    return intervals.Z * np.sqrt(variance), variance


def delong_interval(
    is_positive: np.ndarray, scores: np.ndarray
) -> results.Interval | None:
    """DeLong's interval of the AUC, which takes images as independent.

    DeLong et al., 1988, "Comparing the Areas under Two or More Correlated
    Receiver Operating Characteristic Curves"; by ranks, as in Sun and Xu,
    2014, "Fast Implementation of DeLong's Algorithm".

    Returns:
        Bounds in [0, 1], or None for fewer than ten images of a class.
    """
    if min(np.sum(is_positive), np.sum(~is_positive)) < _FEWEST:
        return None
    placements = _placements(is_positive, scores)
    half, _ = _spread(*placements)
    auc = placements[0].mean()
    return float(max(0, auc - half)), float(min(1, auc + half))


def delong_test(
    is_positive: np.ndarray, scores: np.ndarray, other_scores: np.ndarray
) -> results.DelongTest | None:
    """DeLong's test that two AUCs of the same images are equal.

    The p-value is two-sided, and 1.0 where the scores rank alike. None for
    fewer than ten images of a class.
    """
    if min(np.sum(is_positive), np.sum(~is_positive)) < _FEWEST:
        return None
    placements = _placements(is_positive, scores)
    of_other = _placements(is_positive, other_scores)
    half, variance = _spread(
        *(a - b for a, b in zip(placements, of_other, strict=True))
    )
    difference = float(placements[0].mean() - of_other[0].mean())
    if variance > 1e-24:
        p_value = 2 * special.ndtr(-abs(difference) / np.sqrt(variance))
    else:  # what rounding leaves of zero
        p_value = 1.0 if abs(difference) < 1e-12 else 0.0
    return results.DelongTest(
        difference,
        (float(max(-1, difference - half)), float(min(1, difference + half))),
        float(p_value),
    )
