"""Pairs of images that may be copies of each other, found among very many.

They are images whose coarse thumbnails, without what all images of the set have
in common, point the same way, or those of one and of a view of the other, see
`views`. They are looked for among neighbouring cells of a k-means partition, so
the work grows as N^1.5.
"""

import collections
import math
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import threadpoolctl

from trainer.data.build import scan, views

CANDIDATE_COSINE = 0.75
# Of a view, see `views`, and an image; coarser, and seldom high by chance.
VIEW_COSINE = 0.9
VIEW_CELLS = 3
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

# Two indices, and the view of the first that the second may show.
Candidate = tuple[int, int, views.View]


def coarse_features(thumbnails: np.ndarray) -> np.ndarray:
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


def find_alike(features: np.ndarray) -> list[Candidate]:
    """Pairs whose `coarse_features` are alike, the closest first."""
    centers = _cell_centers(features)
    cells = _nearest_cells(features, centers, NEIGHBOUR_CELLS)
    found = _search(features, features, cells, cells[:, 0], CANDIDATE_COSINE)
    best = {tuple(sorted(pair)): cosine for pair, cosine in found}
    return _keep_closest(
        (cosine, *pair, views.AS_IT_IS) for pair, cosine in best.items()
    )


# For such small products, several threads take three times as long.
@threadpoolctl.threadpool_limits.wrap(limits=1)
def find_seen_otherwise(thumbnails: np.ndarray) -> list[Candidate]:
    """Pairs of which the second may show a view of the first, best first."""
    features = views.AS_IT_IS.shrink(thumbnails)
    _normalize(features, features.mean(axis=1, keepdims=True))
    center = features.mean(axis=0, keepdims=True)
    if len(features) < 8:
        center *= 0
    _normalize(features, center)
    centers = _cell_centers(features)
    cells = _nearest_cells(features, centers, 1)[:, 0]
    hits = {}
    for view in views.OTHERS:
        queries = view.shrink(thumbnails)
        _normalize(queries, queries.mean(axis=1, keepdims=True))
        _normalize(queries, center)
        probed = _nearest_cells(queries, centers, VIEW_CELLS)
        found = _search(queries, features, probed, cells, VIEW_COSINE)
        hits.update(((view, *pair), cosine) for pair, cosine in found)
    best = {}
    for (view, seen, image), cosine in hits.items():
        # Among upright images all turned ones are alike, but not turned back.
        is_mutual = (view.reverse, image, seen) in hits
        pair = tuple(sorted((seen, image)))
        if cosine > best.get(pair, (0,))[0] and (is_mutual or view.scale < 1):
            best[pair] = cosine, seen, image, view
    return _keep_closest(best.values())


def _search(
    queries: np.ndarray,
    features: np.ndarray,
    probed: np.ndarray,
    cells: np.ndarray,
    minimum: float,
) -> Iterator[tuple[tuple[int, int], float]]:
    """Pairs of a query and an image close to it, and their cosine.

    Args:
        queries: unit vectors, of all images, as `features`.
        probed: cells that each query is looked for in.
        cells: the cell of each image.
        minimum: of the cosine.
    """
    for cell in range(cells.max() + 1):
        members = np.flatnonzero(cells == cell)
        if not len(members):
            continue
        asking = np.flatnonzero((probed == cell).any(axis=1))
        for start in range(0, len(asking), BLOCK_SIZE):
            block = asking[start : start + BLOCK_SIZE]
            yield from _closest_of(queries, features, block, members, minimum)


def _cell_centers(features: np.ndarray) -> np.ndarray:
    if len(features) <= MAX_EXHAUSTIVE:
        return features[:1]
    num_cells = math.isqrt(len(features)) // 2
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


def _nearest_cells(
    features: np.ndarray, centers: np.ndarray, probes: int
) -> np.ndarray:
    """Closest centers, the first in front: int16 `[num_images, probes]`."""
    probes = min(probes, len(centers))
    nearest = np.empty((len(features), probes), np.int16)
    for start in range(0, len(features), BLOCK_SIZE):
        cosines = features[start : start + BLOCK_SIZE] @ centers.T
        cells = np.argpartition(-cosines, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(cosines, cells, 1), axis=1)
        nearest[start : start + BLOCK_SIZE] = np.take_along_axis(
            cells, order, axis=1
        )
    return nearest


def _closest_of(
    queries: np.ndarray,
    features: np.ndarray,
    asking: np.ndarray,
    members: np.ndarray,
    minimum: float,
) -> Iterator[tuple[tuple[int, int], float]]:
    cosines = queries[asking] @ features[members].T
    # Most have none that is close.
    has_close = cosines.max(axis=1) >= minimum
    asking, cosines = asking[has_close], cosines[has_close]
    keep = min(CANDIDATES_PER_IMAGE + 1, len(members))
    columns = np.argpartition(-cosines, keep - 1, axis=1)[:, :keep]
    values = np.take_along_axis(cosines, columns, axis=1)
    for row, column in np.argwhere(values >= minimum):
        first, second = asking[row], members[columns[row, column]]
        if first != second:
            cosine = round(float(values[row, column]), 4)
            yield (int(first), int(second)), cosine


def _keep_closest(
    pairs: Iterable[tuple[float, int, int, views.View]],
) -> list[Candidate]:
    """The pairs with the highest cosines, in front, a few for each image."""
    counts, kept = collections.Counter(), []
    ordered = sorted(pairs, key=lambda pair: (-pair[0], *pair[1:3]))
    for _, first, second, view in ordered:
        if min(counts[first], counts[second]) < CANDIDATES_PER_IMAGE:
            counts[first] += 1
            counts[second] += 1
            kept.append((first, second, view))
    return kept
