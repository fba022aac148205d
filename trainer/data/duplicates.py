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

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data import groups, parallel, scan

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
# After a first alignment of the outlines.
MIN_COARSE_AGREEMENT = 0.6
# Copies differ by no more than this share of the side, in shift and stretch.
MAX_DEFORMATION = 0.12
# Of an alignment, which ends when no parameter changes by more.
MAX_STEPS = 12
MIN_STEP = 2e-4
# In thumbnail pixels: coarser than the noise, finer than the outline.
DETAIL_SIGMA = 1.5
# Contrast is evened out over this distance, or the skull would outweigh the
# brain; what is weaker than so many levels may be noise, and is not raised.
CONTRAST_SIGMA = 3
NOISE_LEVEL = 4


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well the details of two thumbnails agree, at most 1.

    Attributes:
        overall: correlation.
        worst_tile: the lowest correlation of a tile that has details.
    """

    overall: float
    worst_tile: float

    @property
    def is_confirmed(self) -> bool:
        return (
            self.overall >= DETAIL_AGREEMENT
            and self.worst_tile >= TILE_AGREEMENT
        )


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
        if not agreement.is_confirmed:
            continue
        # Asked again: pairs in flight may have joined the two meanwhile, and
        # how many are in flight must not show in the result.
        if joined.find(first) != joined.find(second):
            joined.join(first, second)
            found.append(NearPair(first, second, round(agreement.overall, 3)))
    return found


def _measure_pair(pair: tuple[np.ndarray, np.ndarray]) -> Agreement:
    return measure_agreement(*pair)


def measure_agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Compares two thumbnails, as they are and aligned.

    Args:
        first: uint8 `[size, size]`.
        second: uint8 `[size, size]`.
    """
    from scipy import ndimage

    first, second = first.astype(np.float64), second.astype(np.float64)
    details = _details(first), _details(second)
    plain = _compare(*details)
    if plain.is_confirmed:
        return plain
    parameters = np.zeros(4)
    # Outlines first, which attract from afar, then details. What is left of a
    # blur fits into half the pixels.
    blurred = [
        ndimage.gaussian_filter(image, 3)[::2, ::2] for image in (first, second)
    ]
    parameters = _align(*blurred, parameters)
    splines = _splines(second)
    coarsely = _compare(details[0], _details(_deform(splines, parameters)))
    # Saves most of the time: the details of strangers do not meet.
    if coarsely.overall < MIN_COARSE_AGREEMENT:
        return max(plain, coarsely, key=lambda one: one.overall)
    parameters = _align(*details, parameters)
    aligned = _compare(details[0], _details(_deform(splines, parameters)))
    return aligned if aligned.overall > plain.overall else plain


def _details(image: np.ndarray) -> np.ndarray:
    """What a blur takes away, with the same contrast everywhere."""
    from scipy import ndimage

    details = image - ndimage.gaussian_filter(image, DETAIL_SIGMA)
    energy = ndimage.gaussian_filter(np.square(details), CONTRAST_SIGMA)
    return details / (np.sqrt(energy) + NOISE_LEVEL)


def _inner(thumbnail: np.ndarray) -> np.ndarray:
    """Without the margin that an alignment fills from outside."""
    margin = max(2, len(thumbnail) // 10)
    return thumbnail[margin:-margin, margin:-margin]


def _unit(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    norm = math.sqrt((values * values).sum())
    return values / norm if norm > 1e-6 else np.zeros_like(values)


def _compare(first: np.ndarray, second: np.ndarray) -> Agreement:
    first, second = _inner(first), _inner(second)
    overall = float((_unit(first) * _unit(second)).sum())
    side = len(first) // NUM_TILES
    energies, correlations = [], []
    for i, j in np.ndindex(NUM_TILES, NUM_TILES):
        tile = np.s_[i * side : (i + 1) * side, j * side : (j + 1) * side]
        energies.append(np.square(first[tile]).mean())
        correlations.append((_unit(first[tile]) * _unit(second[tile])).sum())
    has_details = np.array(energies) >= MIN_TILE_ENERGY * np.mean(energies)
    return Agreement(
        overall, float(np.min(np.array(correlations)[has_details]))
    )


def _deform(coefficients: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Stretches by `1 + parameters[:2]`, then shifts by shares of the side.

    Args:
        coefficients: of the splines through a thumbnail.
        parameters: stretch and shift, of rows and columns each.
    """
    from scipy import ndimage

    center = (len(coefficients) - 1) / 2
    stretch, shift = 1 + parameters[:2], parameters[2:] * len(coefficients)
    offset = center - stretch * center + shift
    return ndimage.affine_transform(
        coefficients,
        stretch,
        offset,
        order=3,
        mode="nearest",
        prefilter=False,
    )


def _splines(thumbnail: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.spline_filter(thumbnail, order=3, mode="nearest")


def _align(
    fixed: np.ndarray, moving: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Parameters of `_deform` that make `moving` fit best, near `start`.

    Gauss-Newton on the correlation (Evangelidis and Psarakis, 2008), which
    keeps the best step that it has seen.
    """
    coefficients = _splines(moving)
    target = _unit(_inner(fixed)).ravel()
    distance = np.arange(len(moving)) - (len(moving) - 1) / 2
    parameters = best = start
    best_correlation = -np.inf
    for _ in range(MAX_STEPS):
        warped = _deform(coefficients, parameters)
        values = _inner(warped) - _inner(warped).mean()
        norm = math.sqrt((values * values).sum())
        if norm < 1e-6:
            break
        unit = (values / norm).ravel()
        correlation = float(unit @ target)
        if correlation > best_correlation:
            best, best_correlation = parameters, correlation
        rows, columns = np.gradient(warped)
        rows /= 1 + parameters[0]
        columns /= 1 + parameters[1]
        slopes = np.stack(
            [
                _inner(rows * distance[:, None]).ravel(),
                _inner(columns * distance).ravel(),
                _inner(rows * len(moving)).ravel(),
                _inner(columns * len(moving)).ravel(),
            ]
        )
        slopes = (slopes - slopes.mean(axis=1, keepdims=True)) / norm
        slopes -= (slopes @ unit)[:, None] * unit
        squares = slopes @ slopes.T
        damping = 1e-3 * np.diag(np.diag(squares)) + 1e-12 * np.eye(4)
        step = np.linalg.solve(squares + damping, slopes @ (target - unit))
        moved = np.clip(parameters + step, -MAX_DEFORMATION, MAX_DEFORMATION)
        if np.abs(moved - parameters).max() < MIN_STEP:
            break
        parameters = moved
    return best


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
    """Indices of the closest centers, the first of all in front.

    Returns:
        int16 `[num_images, min(NEIGHBOUR_CELLS, num_cells)]`.
    """
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
