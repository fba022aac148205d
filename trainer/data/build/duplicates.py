"""Near-duplicates: re-encoded, resized, brightened or cropped copies.

Candidates are images whose coarse thumbnails, without what all images of the
set have in common, point the same way. They are looked for among neighbouring
cells of a k-means partition, so the work grows as N^1.5. A candidate is
confirmed on a finer thumbnail: the two are aligned, since a crop shifts and
stretches, and must then agree in detail, not only in the outline that all
heads share, and everywhere: neighbouring slices differ in places, copies of
one slice nowhere.

Measured: of copies of 253 MRI slices from the web and of the phantoms of
`sample_data`, all with JPEG quality 40, other aspect or brightness are found,
and 95 % or more of those at half the size or one pixel smaller. Overall they
agree to 0.94 to 1.0. Neighbouring slices agree to 0.92 (phantom) or 0.85
(volume) at most, two sequences of one slice to 0.6, different heads to 0.8.
"""

import collections
import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data.build import alignment, groups, parallel, scan

# Correlation of the details of two thumbnails, over all and in the worst tile.
DETAIL_AGREEMENT = 0.935
TILE_AGREEMENT = 0.74
# Tiles per side, and the share of the mean energy that a tile must have: in an
# empty corner there is only noise to compare.
NUM_TILES = 4
MIN_TILE_ENERGY = 0.25
CANDIDATE_COSINE = 0.75
# Side of the coarse thumbnails, in pixels.
COARSE_SIZE = 16
# A chain of neighbours joins a cluster: nobody needs all pairs of it.
CANDIDATES_PER_IMAGE = 8
NEIGHBOUR_CELLS = 16
# Below that, comparing all coarse thumbnails is faster than a partition.
MAX_EXHAUSTIVE = 4096
# Images compared with others at a time: bounds the memory.
BLOCK_SIZE = 512
# Sampled to find the centers of the cells.
IMAGES_PER_CELL = 100
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
    candidates = _find_candidates(_coarse_features(thumbnails))
    open_pairs = (
        (first, second)
        for first, second in candidates
        if joined.find(first) != joined.find(second)
    )

    def cut_blocks() -> Iterator[tuple]:
        while pairs := list(itertools.islice(open_pairs, PAIRS_PER_BLOCK)):
            firsts, seconds = np.transpose(pairs)
            yield pairs, thumbnails[firsts], thumbnails[seconds]

    # Few pairs are not worth the start of the workers.
    if len(candidates) < MIN_PAIRS_FOR_WORKERS:
        num_workers = 1
    near_pairs = []
    for block in parallel.map_ordered(_confirm, cut_blocks(), num_workers):
        for first, second, agreement in block:
            # Asked again: pairs in flight may have joined the two meanwhile,
            # and how many are in flight must not show in the result.
            if joined.find(first) != joined.find(second):
                joined.join(first, second)
                near_pairs.append(NearPair(first, second, round(agreement, 3)))
    return near_pairs


def _confirm(
    block: tuple[list[tuple[int, int]], np.ndarray, np.ndarray],
) -> list[tuple[int, int, float]]:
    """The near-duplicates of a block, and how well they agree.

    A block is pairs of indices and the thumbnails of both.
    """
    pairs, firsts, seconds = block
    overall, worst_tile = measure_agreement(firsts, seconds)
    confirmed = _is_confirmed(overall, worst_tile)
    return [(*pairs[i], float(overall[i])) for i in np.flatnonzero(confirmed)]


def measure_agreement(
    firsts: np.ndarray, seconds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compares pairs of thumbnails, as they are and aligned.

    Args:
        firsts: uint8 `[num_pairs, size, size]`, as `seconds`.

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
    places = np.flatnonzero(~_is_confirmed(*best))
    parameters = alignment.align(
        _outlines(firsts[places]),
        _outlines(seconds[places]),
        np.zeros((len(places), 4)),
    )
    coarsely = improve(places, parameters)
    # Saves most of the time: the details of strangers do not meet.
    is_close = coarsely >= MIN_COARSE_AGREEMENT
    places, parameters = places[is_close], parameters[is_close]
    parameters = alignment.align(
        details[places], _details(seconds[places]), parameters
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


def _coarse_features(thumbnails: np.ndarray) -> np.ndarray:
    """Coarse thumbnails as unit vectors, without the set's mean image."""
    factor = scan.THUMBNAIL_SIZE // COARSE_SIZE
    coarse = np.empty((len(thumbnails), COARSE_SIZE**2), np.float32)
    for start in range(0, len(thumbnails), 4096):
        block = thumbnails[start : start + 4096]
        shape = (len(block), COARSE_SIZE, factor, COARSE_SIZE, factor)
        means = block.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
        coarse[start : start + 4096] = means.reshape(len(block), -1)
    # Brightness and contrast do not count.
    _normalize(coarse, coarse.mean(axis=1, keepdims=True))
    # The mean of two images would be half of each.
    if len(coarse) >= 8:
        _normalize(coarse, coarse.mean(axis=0, keepdims=True))
    return coarse


def _normalize(features: np.ndarray, center: np.ndarray) -> None:
    features -= center
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.maximum(norms, 1e-6)


def _find_candidates(features: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of neighbouring features, the closest first."""
    num_images = len(features)
    num_cells = 1
    if num_images > MAX_EXHAUSTIVE:
        num_cells = math.isqrt(num_images) // 2
    centers = _cell_centers(features, num_cells)
    nearest = _nearest_cells(features, centers)
    best = {}
    for cell in range(num_cells):
        members = np.flatnonzero(nearest[:, 0] == cell)
        if not len(members):
            continue
        queries = np.flatnonzero((nearest == cell).any(axis=1))
        for start in range(0, len(queries), BLOCK_SIZE):
            block = queries[start : start + BLOCK_SIZE]
            _add_pairs(best, features, block, members)
    pairs = sorted(
        (-cosine, first, second) for (first, second), cosine in best.items()
    )
    return _keep_closest(pairs)


def _cell_centers(features: np.ndarray, num_cells: int) -> np.ndarray:
    if num_cells == 1:
        return features[:1]
    # Of scikit-learn, the import alone would take as much memory as 100,000
    # images.
    from scipy.cluster import vq

    rng = np.random.default_rng(0)
    num_sampled = min(len(features), IMAGES_PER_CELL * num_cells)
    sample = features[rng.choice(len(features), num_sampled, replace=False)]
    with warnings.catch_warnings():
        # Cells stay empty where many images are alike.
        warnings.simplefilter("ignore")
        centers, _ = vq.kmeans2(sample, sample[:num_cells], minit="matrix")
    return centers


def _nearest_cells(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Closest centers, the first in front: int16 `[num_images, probes]`."""
    probes = min(NEIGHBOUR_CELLS, len(centers))
    nearest = np.empty((len(features), probes), np.int16)
    for start in range(0, len(features), BLOCK_SIZE):
        cosines = features[start : start + BLOCK_SIZE] @ centers.T
        cells = np.argpartition(-cosines, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(cosines, cells, 1), axis=1)
        nearest[start : start + BLOCK_SIZE] = np.take_along_axis(
            cells, order, axis=1
        )
    return nearest


def _add_pairs(
    best: dict[tuple[int, int], float],
    features: np.ndarray,
    queries: np.ndarray,
    members: np.ndarray,
) -> None:
    cosines = features[queries] @ features[members].T
    keep = min(CANDIDATES_PER_IMAGE + 1, len(members))
    columns = np.argpartition(-cosines, keep - 1, axis=1)[:, :keep]
    values = np.take_along_axis(cosines, columns, axis=1)
    for row, column in np.argwhere(values >= CANDIDATE_COSINE):
        first, second = queries[row], members[columns[row, column]]
        if first != second:
            pair = (int(min(first, second)), int(max(first, second)))
            best[pair] = round(float(values[row, column]), 4)


def _keep_closest(
    pairs: Sequence[tuple[float, int, int]],
) -> list[tuple[int, int]]:
    counts, kept = collections.Counter(), []
    for _, first, second in pairs:
        if min(counts[first], counts[second]) < CANDIDATES_PER_IMAGE:
            counts[first] += 1
            counts[second] += 1
            kept.append((first, second))
    return kept
