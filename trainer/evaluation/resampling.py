"""The bootstrap over groups: whole patients are drawn, not images.

Images of one patient are alike, so they are no independent draws. A resample
is a weight per image, the number of times that its group was drawn; metrics
are functions of weights, and so a thousand resamples take one matrix product.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

from trainer.evaluation.results import Interval

CONFIDENCE = 0.95
Z = stats.norm.ppf(0.5 + CONFIDENCE / 2)  # half a normal interval's width
NUM_RESAMPLES = 1000
_MAX_CHUNK = 2_000_000  # weights in memory at a time

Statistics = dict[tuple[str, str], np.ndarray]


def resample_weights(
    groups: list[str], num_resamples: int, seed: int, width: int = 1
) -> Iterator[np.ndarray]:
    """Yields resamples of whole groups, drawn with replacement.

    Args:
        groups: of each image.
        num_resamples: in all.
        seed: of the draws, which do not depend on how they are chunked.
        width: numbers that the caller holds per resample, where it is more
            than a weight per image.

    Yields:
        float64 `[chunk, images]`: how often an image was drawn.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    generator = np.random.default_rng(seed)
    largest = max(1, _MAX_CHUNK // max(len(groups), width, 1))
    for start in range(0, num_resamples, largest):
        size = min(largest, num_resamples - start)
        drawn = generator.integers(0, len(names), (size, len(names)))
        drawn += np.arange(size)[:, np.newaxis] * len(names)
        times = np.bincount(drawn.ravel(), minlength=size * len(names))
        times = times.reshape(size, len(names)).astype(np.float64)
        yield times[:, group_of]


def resample(
    statistics: Callable[[np.ndarray], Statistics],
    groups: list[str],
    num_resamples: int,
    seed: int,
    width: int = 1,
) -> tuple[dict[tuple[str, str], float], Statistics]:
    """The value of each statistic, and its values `[num_resamples]`.

    `statistics` maps weights `[resamples, images]` to arrays `[resamples]`; for
    the other arguments see `resample_weights`.
    """
    once = np.ones((1, len(groups)))
    values = {key: float(v[0]) for key, v in statistics(once).items()}
    chunks = [
        statistics(weights)
        for weights in resample_weights(groups, num_resamples, seed, width)
    ]
    resampled = {
        key: np.concatenate([chunk[key] for chunk in chunks]) for key in values
    }
    return values, resampled


def fewest_groups(groups: Sequence[str], labels: np.ndarray) -> int:
    """Groups of the class that has the fewest: they decide how sure one is."""
    names = np.asarray(groups)
    return min(
        (len(np.unique(names[labels == c])) for c in np.unique(labels)),
        default=0,
    )


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

    Returns:
        None where fewer than half of the resamples define the statistic.
    """
    finite = resampled[np.isfinite(resampled)]
    if not len(finite) or len(finite) < len(resampled) / 2:
        return None
    tail = (1 - CONFIDENCE) / 2
    if num_groups is not None and num_groups > 1:
        student = stats.t.ppf(tail, num_groups - 1)
        tail = stats.norm.cdf(student * np.sqrt(num_groups / (num_groups - 1)))
    low, high = np.percentile(finite, [100 * tail, 100 - 100 * tail])
    return float(low), float(high)
