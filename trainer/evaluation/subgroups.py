"""Figures of parts of a split: by a column, or by kinship with training."""

import collections

import numpy as np

from trainer.evaluation import metrics
from trainer.evaluation import predictions as predictions_lib

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
    predictions: predictions_lib.Predictions,
    values: list[str],
    overall: dict,
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point: float | None,
    seed: int = 0,
) -> dict[str, dict]:
    """Figures of the images that share a value, for every value.

    Args:
        predictions: calibrated and finite.
        values: of a column, one per image; empty where it is not known.
        overall: metrics of the whole split.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        operating_point: threshold on the score, None unless there are two.
        seed: of the resamples.

    Returns:
        What `report` documents as a column of `subgroups`, sorted by value.
    """
    values = cut_numbers(values)
    counts = collections.Counter(value or _UNKNOWN for value in values)
    kept = {name for name, _ in counts.most_common(_MAX_VALUES)}
    column = np.array(
        [v if v in kept else _OTHERS for v in (v or _UNKNOWN for v in values)],
        dtype=object,
    )
    found = {}
    for name in sorted(set(column)):
        part = predictions.select(column == name)
        result = metrics.compute_metrics(
            part, class_names, positive_index, operating_point, seed=seed
        )
        found[name] = {
            "num_images": result["num_images"],
            "num_groups": result["num_groups"],
            "metrics": result["metrics"],
            "below": [
                metric
                for metric in shown_metrics(positive_index)
                if _is_below(result["metrics"][metric], overall[metric])
            ],
        }
    return found


def shown_metrics(positive_index: int | None) -> tuple[str, ...]:
    """The metrics that a table of subgroups shows."""
    return _OF_MANY if positive_index is None else _OF_TWO


def _is_below(metric: dict, overall: dict) -> bool:
    """Whether all of a part's interval lies below the whole's figure."""
    if metric["interval"] is None or overall["value"] is None:
        return False
    return metric["interval"][1] < overall["value"]
