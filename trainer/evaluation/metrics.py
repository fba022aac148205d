"""Metrics with 95 % confidence intervals.

Every metric is a function of weights of images, so that one pass gives its
value and its bootstrap over groups (`resampling`), and from that its interval;
the proportions have Wilson's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from trainer.evaluation import (
    intervals,
    ordinal,
    proportions,
    ranking,
    resampling,
    results,
)
from trainer.evaluation.predictions import Decided
from trainer.evaluation.ranking import ratio

CALIBRATION_BINS = 10
_NO_IMAGE = "there is no image to judge by"
_ONE_CLASS = "needs images of both classes"
_REASONS = {
    "roc_auc": _ONE_CLASS,
    "matthews_correlation": _ONE_CLASS,
    "quadratic_kappa": "all images and decisions are of one class",
    "average_precision": "needs an image of the positive class",
    "positive_predictive_value": "needs both classes and positive decisions",
    "negative_predictive_value": "needs both classes and negative decisions",
}
# Proportions of images: which images count, and which of them succeed.
_PROPORTIONS = {
    "sensitivity": ("there is no image of the class", "truth", True),
    "specificity": ("there is no image of another class", "truth", False),
    "positive_predictive_value": ("no image is called positive", "call", True),
    "negative_predictive_value": ("no image is called negative", "call", False),
}
# Statistics in [least, 1]: Wilson's interval by the bootstrap's variance holds
# the truth from so many groups of each class on.
_LEAST = {
    "roc_auc": (0.0, 2),
    "balanced_accuracy": (0.0, 2),
    "matthews_correlation": (-1.0, 2),
    "quadratic_kappa": (-1.0, 2),
    "average_precision": (0.0, 3),
    "f1": (0.0, 3),
    "macro_f1": (0.0, 3),
}
_FEWEST_AT_PREVALENCE = 10


def _confusion(split: Decided, weights: np.ndarray) -> np.ndarray:
    """Confusion matrices `[resamples, classes, classes]`, rows are true."""
    n, k = split.probabilities.shape
    cell = split.labels.astype(np.int64) * k + split.decisions
    cells = sparse.csr_array((np.ones(n), (np.arange(n), cell)), (n, k * k))
    return (cells.T @ weights.T).T.reshape(-1, k, k)


def _confusion_statistics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    total = confusion.sum(axis=(1, 2))
    true, decided = confusion.sum(axis=2), confusion.sum(axis=1)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    recall = ratio(hits, true)
    present = np.isfinite(recall)
    f1 = ratio(2 * hits, true + decided)
    # Gorodkin, 2004, "Comparing two K-category assignments by a K-category
    # correlation coefficient"; for two classes it is Matthews'.
    covariance = hits.sum(axis=1) * total - np.sum(true * decided, axis=1)
    spread = (total**2 - np.sum(true**2, axis=1)) * (
        total**2 - np.sum(decided**2, axis=1)
    )
    correlation = np.where(
        spread > 0, ratio(covariance, np.sqrt(np.maximum(spread, 0))), 0.0
    )
    correlation[present.sum(axis=1) < 2] = np.nan
    return {
        "accuracy": ratio(hits.sum(axis=1), total),
        "balanced_accuracy": ratio(
            np.where(present, recall, 0).sum(axis=1), present.sum(axis=1)
        ),
        # As in scikit-learn with `zero_division=0`.
        "macro_f1": np.where(total > 0, np.nan_to_num(f1).mean(axis=1), np.nan),
        "matthews_correlation": correlation,
    }


def expected_calibration_error(
    correct: np.ndarray, confidence: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Mean gap between confidence and accuracy over bins of equal width.

    Naeini et al., 2015, "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning".

    Args:
        correct: bool `[images]`.
        confidence: `[images]`, in [0, 1].
        weights: `[resamples, images]`.
    """
    gaps = np.zeros((len(confidence), CALIBRATION_BINS))
    bins = np.minimum(
        (confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1
    )
    gaps[np.arange(len(bins)), bins] = correct - confidence
    return ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def _probability_statistics(
    split: Decided, weights: np.ndarray
) -> dict[str, np.ndarray]:
    n, k = split.probabilities.shape
    own = split.probabilities[np.arange(n), split.labels]
    brier = np.sum(
        (split.probabilities - np.eye(k)[split.labels]) ** 2, axis=-1
    )
    if split.positive_index is not None:
        brier = brier / 2  # the usual form for two classes
    total = weights.sum(axis=1)
    return {
        "log_loss": ratio(
            -(weights @ np.log(np.clip(own, 1e-300, None))), total
        ),
        "brier": ratio(weights @ brier, total),
        "expected_calibration_error": expected_calibration_error(
            split.probabilities.argmax(axis=-1) == split.labels,
            split.probabilities.max(axis=-1),
            weights,
        ),
    }


def _class_statistics(
    split: Decided, weights: np.ndarray, confusion: np.ndarray, c: int
) -> dict[str, np.ndarray]:
    """One class against all others."""
    is_positive, scores = split.labels == c, split.probabilities[:, c]
    true, decided = confusion[:, c].sum(axis=1), confusion[:, :, c].sum(axis=1)
    total = confusion.sum(axis=(1, 2))
    hits = confusion[:, c, c]
    cleared = total - true - decided + hits
    return {
        "roc_auc": ranking.roc_auc(is_positive, scores, weights),
        "average_precision": ranking.average_precision(
            is_positive, scores, weights
        ),
        "f1": np.where(
            total > 0, np.nan_to_num(ratio(2 * hits, true + decided)), np.nan
        ),
        "sensitivity": ratio(hits, true),
        "specificity": ratio(cleared, total - true),
        "positive_predictive_value": ratio(hits, decided),
        "negative_predictive_value": ratio(cleared, total - decided),
    }


def parse_prevalences(texts: list[str]) -> tuple[float, ...]:
    """Numbers of `--prevalences`.

    Raises:
        ValueError: if one of them is no share between 0 and 1.
    """
    prevalences = []
    for text in texts:
        try:
            prevalence = float(text)
        except ValueError:
            prevalence = 0.0
        if not 0 < prevalence < 1:
            raise ValueError(
                "--prevalences must be shares between 0 and 1, for example "
                f"0.01,0.05. Received: {text!r}."
            )
        prevalences.append(prevalence)
    return tuple(dict.fromkeys(prevalences))


def predictive_values(
    sensitivity: Any, specificity: Any, prevalence: float
) -> dict[str, np.ndarray]:
    """PPV and NPV where a share `prevalence` of images is positive (Bayes).

    Arguments and results are floats or arrays; NaN where no image is decided
    that way.
    """
    sensitivity, specificity = np.asarray(sensitivity), np.asarray(specificity)
    true_positive = sensitivity * prevalence
    true_negative = specificity * (1 - prevalence)
    false_positive = (1 - specificity) * (1 - prevalence)
    false_negative = (1 - sensitivity) * prevalence
    return {
        "positive_predictive_value": ratio(
            true_positive, true_positive + false_positive
        ),
        "negative_predictive_value": ratio(
            true_negative, true_negative + false_negative
        ),
    }


def make_statistics(
    split: Decided, prevalences: tuple[float, ...] = ()
) -> Callable[[np.ndarray], resampling.Statistics]:
    """Maps weights `[resamples, images]` to every metric of each resample.

    The keys of the result are (part, metric), where the part is "" for the
    whole split, a class for one-vs-rest, or a prevalence.
    """

    def statistics(weights: np.ndarray) -> resampling.Statistics:
        confusion = _confusion(split, weights)
        whole = _confusion_statistics(confusion)
        if split.ranks:
            kappa = ordinal.quadratic_kappa(confusion, split.ranks)
            whole["quadratic_kappa"] = kappa
        whole |= _probability_statistics(split, weights)
        parts = {}
        if split.positive_index is None:
            for c, name in enumerate(split.class_names):
                parts[name] = _class_statistics(split, weights, confusion, c)
            areas = [part["roc_auc"] for part in parts.values()]
            whole["roc_auc"] = np.mean(areas, axis=0)
        else:
            whole |= _class_statistics(
                split, weights, confusion, split.positive_index
            )
            for prevalence in prevalences:
                parts[f"{prevalence:g}"] = predictive_values(
                    whole["sensitivity"], whole["specificity"], prevalence
                )
        return {
            (part, name): values
            for part, metrics in ({"": whole} | parts).items()
            for name, values in metrics.items()
        }

    return statistics


def _metric(
    name: str, value: float, resampled: np.ndarray, fewest: int
) -> results.Metric:
    """A metric of whose smallest class there are `fewest` groups."""
    if not np.isfinite(value):
        reason = _REASONS.get(name, _NO_IMAGE)
        return results.Metric(value=None, interval=None, reason=reason)
    if name in _LEAST:
        least, needed = _LEAST[name]
        interval = intervals.score_interval(value, resampled, fewest, least)
        method = results.WILSON_BY_BOOTSTRAP
    else:
        needed = intervals.FEWEST_FOR_PERCENTILES
        if name in _PROPORTIONS:
            needed = _FEWEST_AT_PREVALENCE
        interval = intervals.percentile_interval(resampled, fewest)
        method = results.BOOTSTRAP
    if interval is None or fewest < needed:
        reason = intervals.too_few_groups(fewest, needed)
        return results.Metric(value=value, interval=None, reason=reason)
    return results.Metric(value=value, interval=interval, method=method)


def _with_other_intervals(
    split: Decided, metrics: dict[str, results.Metric], c: int
) -> dict[str, results.Metric]:
    """Wilson's of the proportions of a class, and DeLong's of its area."""
    truth, call = split.labels == c, split.decisions == c
    groups = np.asarray(split.groups)
    metrics = dict(metrics)
    for name, (none, condition, side) in _PROPORTIONS.items():
        given, asked = (truth, call) if condition == "truth" else (call, truth)
        counted = given == side
        metrics[name] = proportions.proportion(
            asked[counted] == side,
            groups[counted],
            none,
        )
    area, delong = metrics["roc_auc"], None
    if area.interval is not None:
        delong = ranking.delong_interval(truth, split.probabilities[:, c])
    metrics["roc_auc"] = results.Area(**vars(area), delong_interval=delong)
    return metrics


def compute_metrics(
    predictions: Decided,
    num_resamples: int = resampling.NUM_RESAMPLES,
    seed: int = 0,
    prevalences: tuple[float, ...] = (),
) -> results.Split:
    """All metrics of one split.

    Args:
        predictions: of its images; those without a finite answer are left out.
        num_resamples: behind an interval.
        seed: of the resamples.
        prevalences: shares of positive images, in (0, 1), at which predictive
            values are asked for; two classes only.
    """
    split = predictions.select(predictions.is_finite)
    fewest = {"": intervals.fewest_groups(split.groups, split.labels)}
    num_groups = len(set(split.groups))
    if split.positive_index is None:
        fewest |= {
            name: intervals.fewest_groups(split.groups, split.labels == c)
            for c, name in enumerate(split.class_names)
        }
    values, resampled = resampling.resample(
        make_statistics(split, prevalences),
        split.groups,
        num_resamples,
        seed,
        width=len(split.class_names) ** 2,
    )
    parts: dict[str, dict[str, results.Metric]] = {}
    for (part, name), value in values.items():
        # The kappa is of all classes together, not a mean over them.
        count = num_groups
        if name != "quadratic_kappa":
            count = fewest.get(part, fewest[""])
        parts.setdefault(part, {})[name] = _metric(
            name, value, resampled[part, name], count
        )
    whole = parts.pop("")
    whole["accuracy"] = proportions.proportion(
        split.decisions == split.labels,
        np.asarray(split.groups),
        _NO_IMAGE,
    )
    is_binary = split.positive_index is not None
    if split.positive_index is not None:
        whole = _with_other_intervals(split, whole, split.positive_index)
    else:
        for c, name in enumerate(split.class_names):
            parts[name] = _with_other_intervals(split, parts[name], c)
    once = np.ones((1, len(split.labels)))
    return results.Split(
        num_images=len(split.labels),
        num_groups=num_groups,
        confusion_matrix=_confusion(split, once)[0].astype(int).tolist(),
        metrics=whole,
        one_vs_rest=None if is_binary else parts,
        at_prevalence=parts if is_binary else None,
        num_without_answer=len(predictions.labels) - len(split.labels),
    )
