"""Metrics with 95 % confidence intervals.

Every metric but the proportions is a function of weights of images, so that
one pass gives its value and its bootstrap over groups (`resampling`).
`report` documents the schema of what comes out.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import sparse
from sklearn import metrics as sklearn_metrics

from trainer.evaluation import predictions as predictions_lib
from trainer.evaluation import proportions, ranking, resampling

CALIBRATION_BINS = 10
_ONE_CLASS = "needs images of both classes"
_REASONS = {
    "roc_auc": _ONE_CLASS,
    "matthews_correlation": _ONE_CLASS,
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


@dataclasses.dataclass(frozen=True)
class _Split:
    """One split as its metrics see it.

    Attributes:
        labels: int `[images]`.
        decided: int `[images]`, by the operating point.
        probabilities: calibrated, float64 `[images, classes]`.
        groups: int `[images]`.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        prevalences: at which predictive values are asked for.
    """

    labels: np.ndarray
    decided: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray
    class_names: tuple[str, ...]
    positive_index: int | None
    prevalences: tuple[float, ...]


def _ratio(above, below):
    return np.divide(
        above, below, out=np.full(below.shape, np.nan), where=below > 0
    )


def _confusion(split: _Split, weights: np.ndarray) -> np.ndarray:
    """Confusion matrices `[resamples, classes, classes]`, rows are true."""
    n, k = split.probabilities.shape
    cell = split.labels.astype(np.int64) * k + split.decided
    cells = sparse.csr_array((np.ones(n), (np.arange(n), cell)), (n, k * k))
    return (cells.T @ weights.T).T.reshape(-1, k, k)


def _confusion_statistics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    total = confusion.sum(axis=(1, 2))
    true, decided = confusion.sum(axis=2), confusion.sum(axis=1)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    recall = _ratio(hits, true)
    present = np.isfinite(recall)
    f1 = _ratio(2 * hits, true + decided)
    # Gorodkin, 2004, "Comparing two K-category assignments by a K-category
    # correlation coefficient"; for two classes it is Matthews'.
    covariance = hits.sum(axis=1) * total - np.sum(true * decided, axis=1)
    spread = (total**2 - np.sum(true**2, axis=1)) * (
        total**2 - np.sum(decided**2, axis=1)
    )
    correlation = np.where(
        spread > 0, _ratio(covariance, np.sqrt(np.maximum(spread, 0))), 0.0
    )
    correlation[present.sum(axis=1) < 2] = np.nan
    return {
        "accuracy": _ratio(hits.sum(axis=1), total),
        "balanced_accuracy": _ratio(
            np.where(present, recall, 0).sum(axis=1), present.sum(axis=1)
        ),
        # As in scikit-learn with `zero_division=0`.
        "macro_f1": np.where(total > 0, np.nan_to_num(f1).mean(axis=1), np.nan),
        "matthews_correlation": correlation,
    }


def calibration_bins(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    """Bin of equal width over [0, 1] that each probability falls into."""
    return np.minimum((confidence * num_bins).astype(int), num_bins - 1)


def expected_calibration_error(
    correct: np.ndarray,
    confidence: np.ndarray,
    weights: np.ndarray | None = None,
    num_bins: int = CALIBRATION_BINS,
) -> np.ndarray:
    """Mean gap between confidence and accuracy over bins of equal width.

    Naeini et al., 2015, "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning".

    Args:
        correct: bool `[images]`.
        confidence: `[images]`, in [0, 1].
        weights: `[resamples, images]`, one resample of ones if None.
        num_bins: over [0, 1].

    Returns:
        float64 `[resamples]`.
    """
    if weights is None:
        weights = np.ones((1, len(confidence)))
    gaps = np.zeros((len(confidence), num_bins))
    bins = calibration_bins(confidence, num_bins)
    gaps[np.arange(len(bins)), bins] = correct - confidence
    return _ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def _probability_statistics(split, weights) -> dict[str, np.ndarray]:
    n, k = split.probabilities.shape
    own = split.probabilities[np.arange(n), split.labels]
    brier = np.sum(
        (split.probabilities - np.eye(k)[split.labels]) ** 2, axis=-1
    )
    if split.positive_index is not None:
        brier = brier / 2  # the usual form for two classes
    total = weights.sum(axis=1)
    return {
        "log_loss": _ratio(
            -(weights @ np.log(np.clip(own, 1e-300, None))), total
        ),
        "brier": _ratio(weights @ brier, total),
        "expected_calibration_error": expected_calibration_error(
            split.probabilities.argmax(axis=-1) == split.labels,
            split.probabilities.max(axis=-1),
            weights,
        ),
    }


def _class_statistics(split, weights, confusion, c) -> dict[str, np.ndarray]:
    """One class against all others."""
    is_positive, scores = split.labels == c, split.probabilities[:, c]
    true, decided = confusion[:, c].sum(axis=1), confusion[:, :, c].sum(axis=1)
    total = confusion.sum(axis=(1, 2))
    hits = confusion[:, c, c]
    return {
        "roc_auc": ranking.roc_auc(is_positive, scores, weights),
        "average_precision": ranking.average_precision(
            is_positive, scores, weights
        ),
        "f1": np.where(
            total > 0, np.nan_to_num(_ratio(2 * hits, true + decided)), np.nan
        ),
        "sensitivity": _ratio(hits, true),
        "specificity": _ratio(total - true - decided + hits, total - true),
        "positive_predictive_value": _ratio(hits, decided),
        "negative_predictive_value": _ratio(
            total - true - decided + hits, total - decided
        ),
    }


def parse_prevalences(texts: list[str]) -> tuple[float, ...]:
    """Numbers of `--prevalences`.

    Raises:
        ValueError: if one of them is no share between 0 and 1.
    """
    found = []
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
        found.append(prevalence)
    return tuple(dict.fromkeys(found))


def predictive_values(sensitivity, specificity, prevalence: float) -> tuple:
    """PPV and NPV where a share `prevalence` of images is positive (Bayes).

    Arguments and results are floats or arrays; NaN where no image is decided
    that way.
    """
    sensitivity, specificity = np.asarray(sensitivity), np.asarray(specificity)
    true_positive = sensitivity * prevalence
    true_negative = specificity * (1 - prevalence)
    return (
        _ratio(
            true_positive, true_positive + (1 - specificity) * (1 - prevalence)
        ),
        _ratio(true_negative, true_negative + (1 - sensitivity) * prevalence),
    )


def _statistics(split: _Split, weights: np.ndarray) -> resampling.Statistics:
    """Every metric of each resample, by (part, metric).

    The part is "" for the whole split, a class for one-vs-rest, or a
    prevalence.
    """
    confusion = _confusion(split, weights)
    found = _confusion_statistics(confusion)
    found |= _probability_statistics(split, weights)
    keyed = {}
    if split.positive_index is None:
        areas = []
        for c, name in enumerate(split.class_names):
            of_class = _class_statistics(split, weights, confusion, c)
            areas.append(of_class["roc_auc"])
            keyed |= {(name, key): v for key, v in of_class.items()}
        found["roc_auc"] = np.mean(areas, axis=0)
    else:
        found |= _class_statistics(
            split, weights, confusion, split.positive_index
        )
        for prevalence in split.prevalences:
            ppv, npv = predictive_values(
                found["sensitivity"], found["specificity"], prevalence
            )
            part = f"{prevalence:g}"
            keyed[part, "positive_predictive_value"] = ppv
            keyed[part, "negative_predictive_value"] = npv
    return {("", key): value for key, value in found.items()} | keyed


def _metric(
    name: str, value: float, resampled, num_groups: int, fewest: int
) -> dict:
    if not np.isfinite(value):
        reason = _REASONS.get(name, "there is no image to judge by")
        return {"value": None, "interval": None, "reason": reason}
    interval = resampling.percentile_interval(resampled, fewest)
    if interval is None or num_groups < 2:
        reason = "too few groups for an interval"
        return {"value": value, "interval": None, "reason": reason}
    return {
        "value": value,
        "interval": interval,
        "method": "bootstrap over groups",
    }


def _with_proportions(split: _Split, found: dict, c: int) -> dict:
    """Replaces the proportions of a class by those with Wilson's interval."""
    truth, call = split.labels == c, split.decided == c
    for name, (none, condition, side) in _PROPORTIONS.items():
        given, asked = (truth, call) if condition == "truth" else (call, truth)
        counted = given == side
        result = proportions.proportion(
            asked[counted] == side, split.groups[counted], none
        )
        result["bootstrap_interval"] = found[name]["interval"]
        found[name] = result
    found["roc_auc"]["delong_interval"] = ranking.delong_interval(
        truth, split.probabilities[:, c]
    )
    return found


def make_statistics(
    predictions: predictions_lib.Predictions,
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
) -> Callable[[np.ndarray], resampling.Statistics]:
    """Maps weights `[resamples, images]` to every metric of each resample.

    Arguments as of `compute_metrics`; the keys of the result are (part,
    metric), where the part is "" for the whole or a class for one-vs-rest.
    """
    p = predictions
    split = _Split(
        p.labels,
        p.decided(positive_index, operating_point),
        p.probabilities,
        np.unique(np.asarray(p.groups), return_inverse=True)[1],
        class_names,
        positive_index,
        (),
    )
    return lambda weights: _statistics(split, weights)


def compute_metrics(
    predictions: predictions_lib.Predictions,
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
    num_resamples: int = resampling.NUM_RESAMPLES,
    seed: int = 0,
    prevalences: tuple[float, ...] = (),
) -> dict:
    """All metrics of one split, ready for `metrics.json`.

    Args:
        predictions: calibrated and finite.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        operating_point: threshold on the score, None unless there are two.
        num_resamples: behind an interval.
        seed: of the resamples.
        prevalences: shares of positive images, in (0, 1), at which predictive
            values are asked for; two classes only.

    Returns:
        What `report` documents as a split.
    """
    p = predictions
    split = _Split(
        p.labels,
        p.decided(positive_index, operating_point),
        p.probabilities,
        np.unique(np.asarray(p.groups), return_inverse=True)[1],
        class_names,
        positive_index,
        prevalences,
    )
    num_groups = len(set(p.groups))
    fewest = resampling.fewest_groups(p.groups, p.labels)
    values, resampled = resampling.resample(
        lambda weights: _statistics(split, weights),
        p.groups,
        num_resamples,
        seed,
        width=len(class_names) ** 2,
    )
    parts: dict[str, dict] = {}
    for (part, name), value in values.items():
        parts.setdefault(part, {})[name] = _metric(
            name, value, resampled[part, name], num_groups, fewest
        )
    found = parts.pop("")
    accuracy = proportions.proportion(
        split.decided == split.labels,
        split.groups,
        "there is no image to judge by",
    )
    accuracy["bootstrap_interval"] = found["accuracy"]["interval"]
    found["accuracy"] = accuracy
    result = {
        "num_images": len(p.labels),
        "num_groups": num_groups,
        "confusion_matrix": _confusion(split, np.ones((1, len(p.labels))))[0]
        .astype(int)
        .tolist(),
        "metrics": found,
    }
    if positive_index is None:
        for c, name in enumerate(class_names):
            _with_proportions(split, parts[name], c)
        return result | {"one_vs_rest": parts}
    _with_proportions(split, found, positive_index)
    return result | {"at_prevalence": parts}


def classification_report(
    predictions: predictions_lib.Predictions,
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
) -> str:
    """scikit-learn's report on the decisions, as text."""
    if not len(predictions.labels):
        return "There is no image to judge by.\n"
    return sklearn_metrics.classification_report(
        predictions.labels,
        predictions.decided(positive_index, operating_point),
        labels=range(len(class_names)),
        target_names=list(class_names),
        digits=3,
        zero_division=0,
    )
