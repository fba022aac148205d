"""The bootstrap over groups: whole patients are drawn, not images.

Images of one patient are alike, so they are no independent draws. A resample
is a weight per image, the number of times that its group was drawn; metrics
are functions of weights, and so a thousand resamples take one matrix product.
"""

from collections.abc import Callable, Iterator

import numpy as np

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
