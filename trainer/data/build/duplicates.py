"""Near-duplicates: re-encoded, resized, brightened, turned or cropped copies.

A pair of `candidates` is confirmed on a finer thumbnail: the two are aligned,
since a crop shifts and stretches, and must then agree in detail, not only in
the outline that all heads share, and everywhere: neighbouring slices differ in
places, copies of one slice nowhere.

Measured: of copies of 253 MRI slices from the web and of the phantoms of
`sample_data`, all with JPEG quality 40, other aspect or brightness are found,
and 95 % or more of those at half the size or one pixel smaller. Overall they
agree to 0.94 to 1.0. Neighbouring slices agree to 0.92 (phantom) or 0.85
(volume) at most, two sequences of one slice to 0.6, different heads to 0.8.

Of 50 JPEG copies each from 253 MRI slices, chest films and breast ultrasound,
all that were mirrored or turned by quarters are found, 95 % of those that lost
5 % of the sides and 93 % at 10 %, on any side, and 93 % at 10 % off every side;
of the 17 million pairs of 5,840 chest films none of two patients is joined but
one with the same pixels.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np

from trainer.data.build import alignment, candidates, groups, parallel

# Correlation of the details of two thumbnails, over all and in the worst tile.
DETAIL_AGREEMENT = 0.935
TILE_AGREEMENT = 0.74
# Tiles per side, and the share of the mean energy that a tile must have: in an
# empty corner there is only noise to compare.
NUM_TILES = 4
MIN_TILE_ENERGY = 0.25
# Pairs compared at a time, and how many are worth the start of the workers.
PAIRS_PER_BLOCK = 32
MIN_PAIRS_FOR_WORKERS = 2000
# After a first alignment of the outlines.
MIN_COARSE_AGREEMENT = 0.6
# In thumbnail pixels: details are coarser than the noise, finer than outlines.
DETAIL_SIGMA = 1.5
OUTLINE_SIGMA = 3
# Contrast is evened out over this distance, or the skull would outweigh the
# brain; what is weaker than so many levels may be noise, and is not raised.
CONTRAST_SIGMA = 3
NOISE_LEVEL = 4


@dataclasses.dataclass(frozen=True)
class NearPair:
    """Two images that show the same, and how well they agree, up to 1."""

    first: int
    second: int
    agreement: float


def find_near_duplicates(
    thumbnails: np.ndarray, joined: groups.UnionFind, num_workers: int = 1
) -> list[NearPair]:
    """Finds near-duplicates among images that are not yet joined.

    Args:
        thumbnails: uint8 `[num_images, scan.THUMBNAIL_SIZE,
            scan.THUMBNAIL_SIZE]`.
        joined: sets of images known to belong together, which it joins further.
        num_workers: processes that confirm candidates.

    Returns:
        Pairs that connect each cluster: one fewer than its members.
    """
    if len(thumbnails) < 2:
        return []
    found = candidates.find_alike(candidates.coarse_features(thumbnails))
    found += candidates.find_seen_otherwise(thumbnails)
    open_pairs = (
        pair for pair in found if joined.find(pair[0]) != joined.find(pair[1])
    )

    def cut_blocks() -> Iterator[tuple]:
        while pairs := list(itertools.islice(open_pairs, PAIRS_PER_BLOCK)):
            firsts, seconds, _ = zip(*pairs, strict=True)
            yield pairs, thumbnails[list(firsts)], thumbnails[list(seconds)]

    # Few pairs are not worth the start of the workers.
    if len(found) < MIN_PAIRS_FOR_WORKERS:
        num_workers = 1
    near_pairs = []
    for block in parallel.map_ordered(_confirm, cut_blocks(), num_workers):
        for first, second, agreement in block:
            # Asked again: pairs in flight may have joined the two meanwhile,
            # and how many are in flight must not show in the result.
            if joined.find(first) != joined.find(second):
                joined.join(first, second)
                pair = sorted((first, second))
                near_pairs.append(NearPair(*pair, round(agreement, 3)))
    return near_pairs


def _confirm(
    block: tuple[list[candidates.Candidate], np.ndarray, np.ndarray],
) -> list[tuple[int, int, float]]:
    """The near-duplicates of a block, and how well they agree.

    A block is candidates and the thumbnails of both.
    """
    pairs, firsts, seconds = block
    seen_as = [view for _, _, view in pairs]
    firsts = np.stack(
        [v.orient(f[None])[0] for v, f in zip(seen_as, firsts, strict=True)]
    )
    overall, worst_tile = measure_agreement(
        firsts, seconds, np.stack([view.laying for view in seen_as])
    )
    # The other way round: what is laid may leave too wide a margin.
    is_open = ~_is_confirmed(overall, worst_tile)
    places = [i for i in np.flatnonzero(is_open) if seen_as[i].scale < 1]
    if places:
        overall[places], worst_tile[places] = measure_agreement(
            seconds[places],
            firsts[places],
            np.stack([seen_as[i].cutting for i in places]),
        )
    confirmed = np.flatnonzero(_is_confirmed(overall, worst_tile))
    return [(*pairs[i][:2], float(overall[i])) for i in confirmed]


def measure_agreement(
    firsts: np.ndarray, seconds: np.ndarray, middle: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Compares pairs of thumbnails, as they are and aligned.

    Args:
        firsts: uint8 `[num_pairs, size, size]`, as `seconds`.
        middle: parameters of `alignment.warp` for `seconds` to start from, if
            they are not to be taken as they are.

    Returns:
        Correlation of the details, at most 1: overall, and in the worst tile
        that has details.
    """
    firsts, seconds = firsts.astype(np.float32), seconds.astype(np.float32)
    details = _details(firsts)
    best = np.stack(_compare(details, _details(seconds)))

    def improve(places: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        warped = alignment.warp(seconds[places], parameters)
        measured = np.stack(_compare(details[places], _details(warped)))
        is_better = measured[0] > best[0, places]
        best[:, places[is_better]] = measured[:, is_better]
        return measured[0]

    # Outlines first, which attract from afar. What is left of a blur fits
    # into half the pixels.
    if middle is None:
        middle = np.zeros((len(firsts), 4))
    places = np.flatnonzero(~_is_confirmed(*best))
    parameters = alignment.align(
        _outlines(firsts[places]),
        _outlines(seconds[places]),
        middle[places],
        middle[places],
    )
    coarsely = improve(places, parameters)
    # Saves most of the time: the details of strangers do not meet.
    is_close = coarsely >= MIN_COARSE_AGREEMENT
    places, parameters = places[is_close], parameters[is_close]
    parameters = alignment.align(
        details[places], _details(seconds[places]), parameters, middle[places]
    )
    improve(places, parameters)
    return best[0], best[1]


def _is_confirmed(overall: np.ndarray, worst_tile: np.ndarray) -> np.ndarray:
    return (overall >= DETAIL_AGREEMENT) & (worst_tile >= TILE_AGREEMENT)


@functools.cache
def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """Blurs along one axis; a product is faster than a filter for so few."""
    from scipy import ndimage

    matrix = ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0)
    return matrix.astype(np.float32)


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    matrix = _blur_matrix(images.shape[1], sigma)
    return matrix @ images @ matrix.T


def _outlines(images: np.ndarray) -> np.ndarray:
    return _blur(images, OUTLINE_SIGMA)[:, ::2, ::2]


def _details(images: np.ndarray) -> np.ndarray:
    """What a blur takes away, with the same contrast everywhere."""
    details = images - _blur(images, DETAIL_SIGMA)
    energy = _blur(np.square(details), CONTRAST_SIGMA)
    return details / (np.sqrt(energy) + NOISE_LEVEL)


def _compare(
    firsts: np.ndarray, seconds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of details: over all, and in the worst tile."""
    firsts, seconds = alignment.inner(firsts), alignment.inner(seconds)
    overall = _correlate(alignment.flatten(firsts), alignment.flatten(seconds))
    first_tiles, second_tiles = _cut_tiles(firsts), _cut_tiles(seconds)
    energies = np.square(first_tiles).mean(axis=2)
    enough = MIN_TILE_ENERGY * energies.mean(axis=1, keepdims=True)
    correlations = _correlate(first_tiles, second_tiles)
    worst_tile = np.where(energies >= enough, correlations, 1).min(axis=1)
    return overall, worst_tile


def _correlate(firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    products = alignment.to_unit(firsts) * alignment.to_unit(seconds)
    return products.sum(axis=-1)


def _cut_tiles(images: np.ndarray) -> np.ndarray:
    """From `[num_images, size, size]` to `[num_images, num_tiles, pixels]`."""
    side = images.shape[1] // NUM_TILES
    used = images[:, : side * NUM_TILES, : side * NUM_TILES]
    tiles = used.reshape(len(images), NUM_TILES, side, NUM_TILES, side)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(
        len(images), NUM_TILES**2, side**2
    )
