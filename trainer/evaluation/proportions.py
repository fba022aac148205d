"""Proportions of images, with intervals that know of groups."""

import functools

import numpy as np

from trainer.evaluation import intervals, results


def effective_trials(success: np.ndarray, groups: np.ndarray) -> float:
    """The number of independent images that say as much as these.

    Their number over the design effect of Rao and Scott, 1992, "A Simple
    Method for the Analysis of Clustered Binary Data": exactly their number
    where every image is a group of its own. Where all or none succeed, the
    data cannot tell how alike a group's images are, and each group counts once.

    Args:
        success: bool `[images]`.
        groups: int `[images]`.
    """
    trials = len(success)
    _, group_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group_of)
    num_groups = len(sizes)
    if num_groups == trials:
        return float(trials)
    share = success.mean()
    if share in (0.0, 1.0) or num_groups < 2:
        return float(num_groups)
    residuals = np.bincount(group_of, success) - share * sizes
    between = np.sum(residuals**2) / trials**2
    between *= num_groups / (num_groups - 1)
    independent = share * (1 - share) / (trials - 1)
    return float(trials / max(1.0, between / independent))


def proportion(
    success: np.ndarray, groups: np.ndarray, none: str
) -> results.Proportion:
    """A proportion of images, with Wilson's interval.

    Args:
        success: bool `[images]`, of the images that count.
        groups: int `[images]`, likewise.
        none: said where there is no image that counts.
    """
    if not len(success):
        return results.Proportion(value=None, interval=None, reason=none)
    value, n, n_groups = float(success.mean()), len(success), len(set(groups))
    make = functools.partial(
        results.Proportion, value=value, n=n, n_groups=n_groups
    )
    if n_groups == 1:
        return make(interval=None, reason="all its images are of one group")
    effective = effective_trials(success, groups)
    return make(
        interval=intervals.wilson_interval(value, effective),
        method=results.WILSON if effective == n else results.WILSON_FOR_GROUPS,
        n_effective=effective,
    )
