"""95 % intervals of what was resampled over groups, and Wilson's.

Few groups of a class are what makes a figure uncertain. Each kind of interval
says how many it needs; with fewer it is None.
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from trainer.evaluation.results import Interval

CONFIDENCE = 0.95
Z = special.ndtri(0.5 + CONFIDENCE / 2)  # half a normal interval's width
FEWEST_FOR_PERCENTILES = 5


def fewest_groups(groups: npt.ArrayLike, labels: np.ndarray) -> int:
    """Groups of the class that has the fewest: they decide how sure one is."""
    names = np.asarray(groups)
    return min(
        (len(np.unique(names[labels == c])) for c in np.unique(labels)),
        default=0,
    )


def too_few_groups(fewest: int, needed: int) -> str:
    """Why there is no interval."""
    if fewest >= needed:
        return "most resamples of groups do not define it"
    return (
        f"needs {needed} groups (patients or copies) of each class, and one "
        f"class has {fewest}"
    )


def _defined(resampled: np.ndarray) -> np.ndarray | None:
    """Finite values, None where fewer than half of them are."""
    finite = resampled[np.isfinite(resampled)]
    return finite if len(finite) >= max(1, len(resampled) / 2) else None


def percentile_interval(
    resampled: np.ndarray, num_groups: int | None = None
) -> Interval | None:
    """The interval that holds the middle `CONFIDENCE` of resampled values.

    Args:
        resampled: values of a statistic.
        num_groups: that were drawn from, of the smallest class. The spread of
            resamples of few groups is too narrow: if given, the interval is as
            much wider as Student's for a mean (Hesterberg, 2015, "What
            Teachers Should Know About the Bootstrap", expanded percentiles).
    """
    finite = _defined(resampled)
    if finite is None:
        return None
    tail = (1 - CONFIDENCE) / 2
    if num_groups is not None:
        if num_groups < FEWEST_FOR_PERCENTILES:
            return None
        student = special.stdtrit(num_groups - 1, tail)
        tail = special.ndtr(student * np.sqrt(num_groups / (num_groups - 1)))
    low, high = np.percentile(finite, [100 * tail, 100 - 100 * tail])
    return float(low), float(high)


def wilson_interval(proportion: float, trials: float) -> Interval:
    """The Wilson score interval.

    Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical
    Inference".

    Args:
        proportion: of successes.
        trials: their number, or an effective number that is no integer.
    """
    scale = 1 + Z**2 / trials
    center = (proportion + Z**2 / (2 * trials)) / scale
    half = np.sqrt(
        proportion * (1 - proportion) / trials + Z**2 / (4 * trials**2)
    )
    half *= Z / scale
    # At 0 and 1 the bounds are exact but for rounding.
    low = 0.0 if proportion == 0 else max(0.0, center - half)
    high = 1.0 if proportion == 1 else min(1.0, center + half)
    return float(low), float(high)


def score_interval(
    value: float, resampled: np.ndarray, num_groups: int, least: float = 0.0
) -> Interval | None:
    """Wilson's interval of a statistic in [`least`, 1], such as a ROC AUC.

    As Mee, 1990, "Confidence Intervals for Probabilities and Tolerance Regions
    Based on a Generalization of the Mann-Whitney Statistic": of as many trials
    as give the statistic's variance. Few groups tell little of that, so the
    greatest that it can be (Birnbaum and Klose, 1957, "Bounds for the Variance
    of the Mann-Whitney Statistic") counts as one group more, as Smyth, 2004,
    "Linear Models and Empirical Bayes Methods", moderates a variance.

    Args:
        value: of the statistic.
        resampled: its values in resamples of groups.
        num_groups: of the smallest class that it is of; two are needed.
        least: the statistic's lower bound.
    """
    finite = _defined(resampled)
    if num_groups < 2 or finite is None:
        return None
    share = (value - least) / (1 - least)
    greatest = share * (1 - share) / num_groups
    trials = num_groups
    if greatest > 1e-12:  # what rounding leaves of zero
        # (groups - 1) parts of the variance, of which resamples lack one.
        variance = finite.var() / (1 - least) ** 2 + greatest / num_groups
        trials *= max(1.0, greatest / variance)
    else:
        share = round(share)
    low, high = wilson_interval(share, trials)
    return least + low * (1 - least), least + high * (1 - least)


Judged = tuple[float, np.ndarray, Interval | None]
Estimated = tuple[float | None, Interval | None]


def difference_interval(
    this: Judged, other: Judged, num_groups: int
) -> Interval | None:
    """The interval of a difference of two statistics of the same groups.

    From the interval of each and their correlation: Zou, 2007, "Toward Using
    Confidence Intervals to Compare Correlations". The correlation is that of
    resamples, with one group more that shows none.

    Args:
        this: value, values in resamples of groups, and interval.
        other: likewise, in the same resamples.
        num_groups: of the smallest class that they are of.
    """
    (value, resampled, interval), (less, less_resampled, less_interval) = (
        this,
        other,
    )
    if interval is None or less_interval is None:
        return None
    both = np.array([resampled, less_resampled])
    both = both[:, np.isfinite(both).all(axis=0)]
    alike = 0.0
    if both.std(axis=1).all():
        if np.array_equal(*both):  # the same model
            return 0.0, 0.0
        alike = np.corrcoef(both)[0, 1] * (num_groups - 1) / num_groups

    return _difference((value, interval), (less, less_interval), alike)


def independent_difference(
    this: Estimated, other: Estimated
) -> Interval | None:
    """The interval of a difference of two statistics of other groups each.

    Newcombe, 1998, "Interval estimation for the difference between independent
    proportions", method 10.

    Args:
        this: value and interval.
        other: likewise.
    """
    (value, interval), (less, less_interval) = this, other
    if value is None or less is None or not interval or not less_interval:
        return None
    return _difference((value, interval), (less, less_interval), 0.0)


def _difference(
    this: tuple[float, Interval],
    other: tuple[float, Interval],
    correlation: float,
) -> Interval:
    (value, (low, high)), (less, (less_low, less_high)) = this, other

    def away(a: float, b: float) -> float:
        return np.sqrt(max(0.0, a**2 + b**2 - 2 * correlation * a * b))

    below = away(value - low, less_high - less)
    above = away(high - value, less - less_low)
    return float(value - less - below), float(value - less + above)
