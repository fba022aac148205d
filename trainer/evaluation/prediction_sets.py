"""Sets of classes that hold the truth as often as was asked for.

Class-conditional split conformal prediction: per class, the probability that
enough of its validation images reach is the one from which a set holds it
(Vovk, 2012, "Conditional Validity of Inductive Conformal Predictors"; Romano
et al., 2020, "Classification with Valid and Adaptive Coverage"). A group
counts once, however many images it has (Lee et al., 2023, "Distribution-Free
Inference with Hierarchical Data"). What is promised is of images of new
groups like those of validation, and of all of them together, not of each kind.
"""

import numpy as np

from trainer.evaluation import (
    intervals,
    proportions,
    ranking,
    resampling,
    results,
)
from trainer.evaluation.calibration import SetChoice
from trainer.evaluation.predictions import Decided

DEFAULT_COVERAGE = 0.9
_ROUNDING = 1e-9


def fewest_groups(coverage: float) -> int:
    """Groups of a class that validation needs for a set to leave it out."""
    return int(np.ceil(1 / (1 - coverage) - _ROUNDING)) - 1


def choose(validation: Decided, coverage: float) -> SetChoice:
    """Thresholds per class from validation; 0 where it has too few groups."""
    answered = validation.select(validation.is_finite)
    groups = np.asarray(answered.groups)
    thresholds, num_groups = [], []
    for c in range(len(answered.class_names)):
        of_class = answered.labels == c
        _, group_of, sizes = np.unique(
            groups[of_class], return_inverse=True, return_counts=True
        )
        probabilities = answered.probabilities[of_class, c]
        order = np.argsort(-probabilities, kind="stable")
        reached = np.cumsum(1 / sizes[group_of[order]])
        # The group to come is one more, of which nothing is known.
        needed = coverage * (len(sizes) + 1) - _ROUNDING
        enough = np.flatnonzero(reached >= needed)
        found = probabilities[order[enough[0]]] if len(enough) else 0.0
        thresholds.append(float(found))
        num_groups.append(len(sizes))
    return SetChoice(coverage, tuple(thresholds), tuple(num_groups))


def compute(
    predictions: Decided,
    choice: SetChoice,
    seed: int = 0,
    num_resamples: int = resampling.NUM_RESAMPLES,
) -> results.PredictionSets:
    """Coverage and size of the sets of images that chose no threshold."""
    split = predictions.select(predictions.is_finite)
    sets, groups = split.prediction_sets, np.asarray(split.groups)
    sizes = sets.sum(axis=1)
    # Of the classes that could be in a set beside the one decided on.
    shares = (sizes - 1) / (len(split.class_names) - 1)

    def statistics(weights: np.ndarray) -> resampling.Statistics:
        return {
            (name, "size"): ranking.ratio(
                weights[:, split.labels == c] @ shares[split.labels == c],
                weights[:, split.labels == c].sum(axis=1),
            )
            for c, name in enumerate(split.class_names)
        }

    values, resampled = resampling.resample(
        statistics, split.groups, num_resamples, seed
    )
    none = "there is no image of the class"
    by_class = {}
    for c, name in enumerate(split.class_names):
        of_class = split.labels == c
        by_class[name] = results.ClassSets(
            split.set_thresholds[c] if split.set_thresholds else 0.0,
            proportions.proportion(sets[of_class, c], groups[of_class], none),
            _size(
                values[name, "size"],
                resampled[name, "size"],
                len(set(groups[of_class])),
                len(split.class_names),
                none,
            ),
        )
    return results.PredictionSets(
        choice.coverage,
        by_class,
        proportions.proportion(
            sizes > 1, groups, "there is no image to judge by"
        ),
    )


def _size(
    share: float,
    resampled: np.ndarray,
    num_groups: int,
    num_classes: int,
    none: str,
) -> results.Metric:
    """A mean size of shares of the classes that could be in a set."""
    if not np.isfinite(share):
        return results.Metric(value=None, interval=None, reason=none)
    value = 1 + share * (num_classes - 1)
    interval = intervals.score_interval(share, resampled, num_groups)
    if interval is None:
        reason = intervals.too_few_groups(num_groups, 2)
        return results.Metric(value=value, interval=None, reason=reason)
    low, high = (1 + bound * (num_classes - 1) for bound in interval)
    return results.Metric(
        value=value,
        interval=(low, high),
        method=results.WILSON_BY_BOOTSTRAP,
    )
