"""The metrics that a sweep may have for its objective."""

import numpy as np

from trainer.evaluation import metrics
from trainer.evaluation.predictions import Decided, make_predictions

_LOWER_IS_BETTER = ("log_loss", "brier", "expected_calibration_error")


def metric_names(num_classes: int) -> list[str]:
    """What an objective may be: metrics of a whole split in `metrics.json`."""
    names = tuple(f"class_{i}" for i in range(num_classes))
    labels = list(range(num_classes)) * 2
    split = make_predictions(
        list("x" * len(labels)),
        labels,
        labels,
        np.eye(num_classes, dtype=np.float32)[labels],
    )
    positive_index = 1 if num_classes == 2 else None
    return sorted(point_metrics(split.decide(names, positive_index, 0.5)))


def direction(objective: str) -> str:
    """Whether "max" or "min" of a metric is best."""
    return "min" if objective in _LOWER_IS_BETTER else "max"


def sign(objective: str) -> int:
    """What to multiply a metric by so that the highest is best."""
    return 1 if direction(objective) == "max" else -1


def best(scored: list, objective: str):
    """What has the best `score`, of equal ones the first; None if none has."""
    return max(
        (s for s in scored if s.score is not None),
        key=lambda s: sign(objective) * s.score,
        default=None,
    )


def point_metrics(split: Decided, weights: np.ndarray | None = None) -> dict:
    """Metrics of a split without intervals.

    Args:
        split: what was predicted of it.
        weights: float64 `[resamples, images]`; one of ones by default.

    Returns:
        A number of each metric, or an array `[resamples]` if there are
        weights.
    """
    statistics = metrics.make_statistics(split)
    once = np.ones((1, len(split.labels)))
    return {
        name: float(values[0]) if weights is None else values
        for (part, name), values in statistics(
            once if weights is None else weights
        ).items()
        if not part
    }
