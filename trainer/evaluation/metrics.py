"""Metrics with 95 % confidence intervals.

Images of one patient are alike, so they are no independent draws: intervals
come from a bootstrap over groups (patients or duplicate groups), not images.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from trainer.evaluation import predictions as predictions_lib

CONFIDENCE = 0.95
NUM_BOOTSTRAP = 1000


def _not_computed(reason: str) -> dict:
    return {"value": None, "interval": None, "reason": reason}


def proportion(successes: int, trials: int) -> dict:
    """A proportion with its Wilson score interval.

    Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical
    Inference".
    """
    if not trials:
        return _not_computed("there is no such image")
    interval = stats.binomtest(int(successes), int(trials)).proportion_ci(
        CONFIDENCE, method="wilson"
    )
    return {
        "value": float(successes / trials),
        "interval": [float(interval.low), float(interval.high)],
        "method": "wilson",
        "n": int(trials),
    }


def bootstrap_draws(
    groups: list[str], num_bootstrap: int, seed: int
) -> list[np.ndarray]:
    """Image indices of resamples of whole groups, drawn with replacement."""
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(members), (num_bootstrap, len(members)))
    return [np.concatenate([members[g] for g in draw]) for draw in draws]


def with_bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    num_images: int,
    draws: list[np.ndarray],
    reason: str,
) -> dict:
    """A statistic with its percentile bootstrap interval.

    Args:
        statistic: function of image indices; NaN where it is not defined.
        num_images: of the split.
        draws: from `bootstrap_draws`.
        reason: said where the statistic is not defined on the whole split.
    """
    value = statistic(np.arange(num_images))
    if not np.isfinite(value):
        return _not_computed(reason)
    resampled = np.array([statistic(draw) for draw in draws])
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < len(draws) / 2:
        return {
            "value": float(value),
            "interval": None,
            "reason": "too few groups for an interval",
        }
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return {
        "value": float(value),
        "interval": [float(low), float(high)],
        "method": "bootstrap over groups",
    }


def roc_auc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney); NaN for one class.

    Args:
        is_positive: bool `[images]`.
        scores: `[images]`.
    """
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = stats.rankdata(scores)
    wins = ranks[is_positive].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def delong_interval(
    is_positive: np.ndarray, scores: np.ndarray
) -> list[float] | None:
    """DeLong's interval of the AUC, which takes images as independent.

    DeLong et al., 1988, "Comparing the Areas under Two or More Correlated
    Receiver Operating Characteristic Curves".

    Returns:
        Bounds in [0, 1], or None for fewer than two images of a class.
    """
    positive, negative = scores[is_positive], scores[~is_positive]
    if len(positive) < 2 or len(negative) < 2:
        return None
    wins = (positive[:, np.newaxis] > negative).astype(np.float64)
    wins += 0.5 * (positive[:, np.newaxis] == negative)
    variance = wins.mean(axis=1).var(ddof=1) / len(positive)
    variance += wins.mean(axis=0).var(ddof=1) / len(negative)
    half = stats.norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(variance)
    auc = wins.mean()
    return [float(max(0, auc - half)), float(min(1, auc + half))]


def _average_precision(is_positive, scores):
    if not is_positive.any():
        return float("nan")
    return float(sklearn_metrics.average_precision_score(is_positive, scores))


def expected_calibration_error(
    correct: np.ndarray, confidence: np.ndarray, num_bins: int = 10
) -> float:
    """Mean gap between confidence and accuracy over bins of equal width.

    Naeini et al., 2015, "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning".

    Args:
        correct: bool `[images]`.
        confidence: `[images]`, in [0, 1].
        num_bins: over [0, 1].
    """
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    gap = np.bincount(bins, correct - confidence, minlength=num_bins)
    return float(np.abs(gap).sum() / count.sum())


def _balanced_accuracy(labels, decided):
    recalls = [np.mean(decided[labels == c] == c) for c in np.unique(labels)]
    return float(np.mean(recalls))


def _macro_f1(labels, decided, num_classes):
    return float(
        sklearn_metrics.f1_score(
            labels,
            decided,
            labels=range(num_classes),
            average="macro",
            zero_division=0,
        )
    )


def compute_metrics(
    predictions: predictions_lib.Predictions,
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
) -> dict:
    """All metrics of one split, ready for `metrics.json`.

    Args:
        predictions: calibrated.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        operating_point: threshold on the score, None unless there are two.
        num_bootstrap: resamples behind an interval.
        seed: of the resamples.

    Returns:
        `num_images`, `num_groups`, `confusion_matrix` (rows are true classes)
        and `metrics`: each has `value`, `interval` (95 %) and `method`, or a
        `reason` where it cannot be computed.
    """
    p = predictions
    probabilities = p.probabilities
    decided = p.decided(positive_index, operating_point)
    draws = bootstrap_draws(p.groups, num_bootstrap, seed)
    n = len(p.labels)
    one_hot = np.eye(len(class_names))[p.labels]
    confidence = probabilities.max(axis=-1)
    correct = probabilities.argmax(axis=-1) == p.labels
    log_p = np.log(np.clip(probabilities[np.arange(n), p.labels], 1e-300, None))
    brier = np.sum((probabilities - one_hot) ** 2, axis=-1)
    if positive_index is not None:
        brier = brier / 2  # the usual form for two classes

    def interval(statistic, reason="not defined on this split"):
        return with_bootstrap_interval(statistic, n, draws, reason)

    found = {
        "accuracy": interval(lambda i: np.mean(decided[i] == p.labels[i])),
        "balanced_accuracy": interval(
            lambda i: _balanced_accuracy(p.labels[i], decided[i])
        ),
        "macro_f1": interval(
            lambda i: _macro_f1(p.labels[i], decided[i], len(class_names))
        ),
        "log_loss": interval(lambda i: -np.mean(log_p[i])),
        "brier": interval(lambda i: np.mean(brier[i])),
        "expected_calibration_error": interval(
            lambda i: expected_calibration_error(correct[i], confidence[i])
        ),
    }
    one_class = "needs images of both classes"
    if positive_index is None:
        for c, name in enumerate(class_names):
            found[f"roc_auc_{name}"] = interval(
                lambda i, c=c: roc_auc(p.labels[i] == c, probabilities[i, c]),
                one_class,
            )
    else:
        found |= _binary_metrics(
            p.labels == positive_index,
            decided == positive_index,
            p.scores(positive_index),
            interval,
        )
    return {
        "num_images": n,
        "num_groups": len(set(p.groups)),
        "confusion_matrix": sklearn_metrics.confusion_matrix(
            p.labels, decided, labels=range(len(class_names))
        ).tolist(),
        "metrics": found,
    }


def _binary_metrics(is_positive, decided, scores, interval) -> dict:
    one_class = "needs images of both classes"
    true_positives = np.sum(decided & is_positive)
    true_negatives = np.sum(~decided & ~is_positive)
    auc = interval(lambda i: roc_auc(is_positive[i], scores[i]), one_class)
    auc["delong_interval"] = delong_interval(is_positive, scores)

    def correlation(i):
        if len(np.unique(is_positive[i])) < 2:
            return float("nan")
        return sklearn_metrics.matthews_corrcoef(is_positive[i], decided[i])

    return {
        "roc_auc": auc,
        "average_precision": interval(
            lambda i: _average_precision(is_positive[i], scores[i]),
            "needs an image of the positive class",
        ),
        "sensitivity": proportion(true_positives, is_positive.sum()),
        "specificity": proportion(true_negatives, (~is_positive).sum()),
        "positive_predictive_value": proportion(true_positives, decided.sum()),
        "negative_predictive_value": proportion(
            true_negatives, (~decided).sum()
        ),
        "f1": interval(
            lambda i: sklearn_metrics.f1_score(
                is_positive[i], decided[i], zero_division=0
            )
        ),
        "matthews_correlation": interval(correlation, one_class),
    }


def classification_report(
    predictions: predictions_lib.Predictions,
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
) -> str:
    """scikit-learn's report on the decisions, as text."""
    return sklearn_metrics.classification_report(
        predictions.labels,
        predictions.decided(positive_index, operating_point),
        labels=range(len(class_names)),
        target_names=list(class_names),
        digits=3,
        zero_division=0,
    )
