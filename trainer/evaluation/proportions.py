"""Proportions of images, with intervals that know of groups."""

import functools

import numpy as np

from trainer.evaluation import resampling, results


def wilson_interval(proportion: float, trials: float) -> results.Interval:
    """The Wilson score interval.

    Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical
    Inference".

    Args:
        proportion: of successes.
        trials: their number, or an effective number that is no integer.
    """
    z = resampling.Z
    scale = 1 + z**2 / trials
    center = (proportion + z**2 / (2 * trials)) / scale
    half = np.sqrt(
        proportion * (1 - proportion) / trials + z**2 / (4 * trials**2)
    )
    half *= z / scale
    # At 0 and 1 the bounds are exact but for rounding.
    low = 0.0 if proportion == 0 else max(0.0, center - half)
    high = 1.0 if proportion == 1 else min(1.0, center + half)
    return float(low), float(high)


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
    success: np.ndarray,
    groups: np.ndarray,
    none: str,
    bootstrap_interval: results.Interval | None = None,
) -> results.Proportion:
    """A proportion of images, with Wilson's interval.

    Args:
        success: bool `[images]`, of the images that count.
        groups: int `[images]`, likewise.
        none: said where there is no image that counts.
        bootstrap_interval: to stand beside it.
    """
    make = functools.partial(
        results.Proportion, bootstrap_interval=bootstrap_interval
    )
    if not len(success):
        return make(value=None, interval=None, reason=none)
    value, n, n_groups = float(success.mean()), len(success), len(set(groups))
    make = functools.partial(make, value=value, n=n, n_groups=n_groups)
    if n_groups == 1 < n:
        return make(interval=None, reason="all images are of one group")
    effective = effective_trials(success, groups)
    return make(
        interval=wilson_interval(value, effective),
        method=results.WILSON if effective == n else results.WILSON_FOR_GROUPS,
        n_effective=effective,
    )
