"""Figures of parts of a split: by a column, or by kinship with training."""

import collections

import numpy as np

from trainer.evaluation import metrics, results
from trainer.evaluation.predictions import Decided

KINSHIP = "kinship with training"
INDEPENDENT = "independent of training"
LEAKED = "shares a patient or a copy with training"
_OF_TWO = ("roc_auc", "sensitivity", "specificity")
_OF_MANY = ("accuracy", "balanced_accuracy", "roc_auc")
_UNKNOWN = "(unknown)"
_OTHERS = "(others)"
_MAX_VALUES = 20  # of a column; the rarer ones are taken together
# A column of more different numbers than this is cut at its quartiles.
_MAX_NUMBERS = 8


def kinship(groups: list[str], train_groups: frozenset[str]) -> list[str]:
    """Whether each image's group is in training, as a column of subgroups."""
    return [LEAKED if g in train_groups else INDEPENDENT for g in groups]


def cut_numbers(values: list[str]) -> list[str]:
    """Ranges instead of the numbers of a column, such as ages.

    Args:
        values: of a column, empty where it is not known.

    Returns:
        The values as they are, unless they are more than a handful of
        different numbers: then the quarter of the known ones that each is in.
    """
    try:
        numbers = np.array(
            [float(value) if value else np.nan for value in values]
        )
    except ValueError:
        return values
    known = np.unique(numbers[np.isfinite(numbers)])
    if len(known) <= _MAX_NUMBERS:
        return values
    bounds = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75]))
    quarter = np.searchsorted(bounds, numbers)
    names = {}
    for q in np.unique(quarter[np.isfinite(numbers)]):
        inside = numbers[(quarter == q) & np.isfinite(numbers)]
        # Sorted by name as by number.
        names[q] = f"{q + 1}. {inside.min():g} to {inside.max():g}"
    return [
        names[q] if np.isfinite(number) else value
        for q, number, value in zip(quarter, numbers, values, strict=True)
    ]


def compute_subgroups(
    predictions: Decided,
    values: list[str],
    overall: dict[str, results.Metric],
    seed: int = 0,
) -> dict[str, results.Subgroup]:
    """Figures of the images that share a value, for every value, sorted.

    `predictions` are finite, a value is empty where it is not known, and
    `overall` are the metrics of the whole split.
    """
    values = [value or _UNKNOWN for value in cut_numbers(values)]
    most_common = collections.Counter(values).most_common(_MAX_VALUES)
    kept = {name for name, _ in most_common}
    column = np.array([v if v in kept else _OTHERS for v in values], object)
    parts = {}
    for name in sorted(set(column)):
        part = metrics.compute_metrics(
            predictions.select(column == name), seed=seed
        )
        parts[name] = results.Subgroup(
            part.num_images,
            part.num_groups,
            part.metrics,
            below=[
                metric
                for metric in shown_metrics(predictions.positive_index)
                if _is_below(part.metrics[metric], overall[metric])
            ],
        )
    return parts


def shown_metrics(positive_index: int | None) -> tuple[str, ...]:
    """The metrics that a table of subgroups shows."""
    return _OF_MANY if positive_index is None else _OF_TWO


def _is_below(metric: results.Metric, overall: results.Metric) -> bool:
    """Whether all of a part's interval lies below the whole's figure."""
    if metric.interval is None or overall.value is None:
        return False
    return metric.interval[1] < overall.value
