"""Near-duplicates: re-encoded, resized, brightened or cropped copies.

Candidates are images whose coarse thumbnails, without what all images of the
set have in common, point the same way. They are looked for among neighbouring
cells of a k-means partition, so the work grows as N^1.5. A candidate is
confirmed on a finer thumbnail: the two are aligned, since a crop shifts and
stretches, and must then agree in detail, not only in the outline that all
heads share.

Measured on 253 MRI slices from the web: planted copies (JPEG quality 40, half
size, other aspect, brighter, steeper, one or three pixels cropped) agree to
0.87 and more, half of them above 0.97; pairs that are one slice in two crops
to 0.91 to 0.98; neighbouring slices of a volume to 0.89 at most, two
sequences of one slice to 0.81, a head and its mirror image to 0.78, different
heads to 0.3.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data import groups, parallel, scan

DETAIL_AGREEMENT = 0.9
CANDIDATE_COSINE = 0.75
# Side of the coarse thumbnails, in pixels.
COARSE_SIZE = 16
# A chain of neighbours joins a cluster: nobody needs all pairs of it.
CANDIDATES_PER_IMAGE = 8
NEIGHBOUR_CELLS = 16
# Copies differ by no more than this share of the side, in shift and stretch.
MAX_DEFORMATION = 0.12
# Thumbnail pixels: coarser than the noise, finer than the outline.
DETAIL_SIGMA = 1.5


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
        joined: sets of images known to belong together; what is found is
            joined in it.
        num_workers: processes that confirm candidates.

    Returns:
        Pairs that connect each cluster: one fewer than its members.
    """
    if len(thumbnails) < 2:
        return []
    candidates = _find_candidates(_coarse_features(thumbnails))

    pending: list[tuple[int, int]] = []

    def open_pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first, second in candidates:
            if joined.find(first) != joined.find(second):
                pending.append((first, second))
                yield np.array(thumbnails[first]), np.array(thumbnails[second])

    # Few pairs are not worth the start of the workers.
    if len(candidates) < 500:
        num_workers = 1
    found = []
    agreements = parallel.map_ordered(_measure_pair, open_pairs(), num_workers)
    for place, agreement in enumerate(agreements):
        first, second = pending[place]
        if agreement < DETAIL_AGREEMENT:
            continue
        # Asked again: pairs in flight may have joined the two meanwhile, and
        # how many are in flight must not show in the result.
        if joined.find(first) != joined.find(second):
            joined.join(first, second)
            found.append(NearPair(first, second, round(agreement, 3)))
    return found


def _measure_pair(pair: tuple[np.ndarray, np.ndarray]) -> float:
    return measure_agreement(*pair)


def measure_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """How well two thumbnails agree in detail, aligned or as they are.

    Args:
        first: uint8 `[size, size]`.
        second: uint8 `[size, size]`.

    Returns:
        Correlation of what a Gaussian blur takes away, in [-1, 1].
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    plain = _detail_correlation(first, second)
    # Far below the threshold alignment may still help; above it cannot matter.
    if plain >= DETAIL_AGREEMENT:
        return plain
    aligned = _detail_correlation(first, _align(first, second))
    return max(plain, aligned)


def _inner(thumbnail: np.ndarray) -> np.ndarray:
    """Without the margin that an alignment fills from outside."""
    margin = max(2, len(thumbnail) // 10)
    return thumbnail[margin:-margin, margin:-margin]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = math.sqrt((first * first).sum() * (second * second).sum())
    return float((first * second).sum()) / norm if norm > 1e-9 else 0.0


def _detail_correlation(first: np.ndarray, second: np.ndarray) -> float:
    from scipy import ndimage

    blur = functools.partial(ndimage.gaussian_filter, sigma=DETAIL_SIGMA)
    return _correlation(
        _inner(first - blur(first)), _inner(second - blur(second))
    )


def _align(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Shifts and stretches a thumbnail until it fits another one best."""
    from scipy import ndimage, optimize

    size = len(fixed)
    center = (size - 1) / 2

    def deform(parameters: np.ndarray) -> np.ndarray:
        stretch, shift = 1 + parameters[:2], parameters[2:] * size
        offset = center - stretch * center + shift
        return ndimage.affine_transform(
            moving, stretch, offset, order=1, mode="nearest"
        )

    def mismatch(parameters: np.ndarray) -> float:
        return -_correlation(_inner(fixed), _inner(deform(parameters)))

    best = optimize.minimize(
        mismatch,
        np.zeros(4),
        method="Powell",
        bounds=[(-MAX_DEFORMATION, MAX_DEFORMATION)] * 4,
        options={"maxiter": 6, "xtol": 1e-3, "ftol": 1e-4},
    )
    return deform(best.x)


def _coarse_features(thumbnails: np.ndarray) -> np.ndarray:
    """Coarse thumbnails as unit vectors, without the set's mean image.

    Returns:
        float32 `[num_images, COARSE_SIZE ** 2]`.
    """
    factor = scan.THUMBNAIL_SIZE // COARSE_SIZE
    coarse = np.empty((len(thumbnails), COARSE_SIZE**2), np.float32)
    for start in range(0, len(thumbnails), 4096):
        block = thumbnails[start : start + 4096]
        shape = (len(block), COARSE_SIZE, factor, COARSE_SIZE, factor)
        means = block.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
        coarse[start : start + 4096] = means.reshape(len(block), -1)
    # Brightness and contrast do not count.
    _normalize(coarse, coarse.mean(axis=1, keepdims=True))
    # Two images only have a mean that is half of each.
    if len(coarse) >= 32:
        _normalize(coarse, coarse.mean(axis=0, keepdims=True))
    return coarse


def _normalize(features: np.ndarray, center: np.ndarray) -> None:
    features -= center
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.maximum(norms, 1e-6)


def _find_candidates(features: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of neighbouring features, the closest first."""
    num_images = len(features)
    num_cells = max(1, math.isqrt(num_images) // 2)
    centers = _cell_centers(features, num_cells)
    probes = min(NEIGHBOUR_CELLS, num_cells)
    cosines = features @ centers.T
    nearest = np.argpartition(-cosines, probes - 1, axis=1)[:, :probes]
    home = np.argmax(cosines, axis=1)
    best = {}
    for cell in range(num_cells):
        members = np.flatnonzero(home == cell)
        if not len(members):
            continue
        queries = np.flatnonzero((nearest == cell).any(axis=1))
        for start in range(0, len(queries), 8192):
            block = queries[start : start + 8192]
            _add_pairs(best, features, block, members)
    pairs = sorted(
        (-cosine, first, second) for (first, second), cosine in best.items()
    )
    return _keep_closest(pairs)


def _cell_centers(features: np.ndarray, num_cells: int) -> np.ndarray:
    if num_cells == 1:
        return features[:1]
    from sklearn import cluster

    means = cluster.MiniBatchKMeans(
        num_cells, random_state=0, n_init=1, batch_size=4096
    )
    return means.fit(features).cluster_centers_.astype(np.float32)


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
    counts, kept = {}, []
    for _, first, second in pairs:
        if (
            counts.get(first, 0) < CANDIDATES_PER_IMAGE
            or counts.get(second, 0) < CANDIDATES_PER_IMAGE
        ):
            counts[first] = counts.get(first, 0) + 1
            counts[second] = counts.get(second, 0) + 1
            kept.append((first, second))
    return kept
