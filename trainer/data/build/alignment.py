"""Shifts and stretches thumbnails until they fit, many pairs at a time.

Shift and stretch act on rows and columns apart, so a warped image is the
product of a matrix for its rows, the image, and a matrix for its columns. The
interpolation is by cubic splines.
"""

import functools

import numpy as np

# Copies differ by no more than this share of the side, in shift and stretch.
MAX_DEFORMATION = 0.12
# An alignment ends when no parameter changes by more.
MAX_STEPS = 12
MIN_STEP = 2e-4


def inner(images: np.ndarray) -> np.ndarray:
    """Without the margin that a warp fills from outside.

    Args:
        images: `[num_images, size, size]`.
    """
    margin = max(2, images.shape[1] // 10)
    return images[:, margin:-margin, margin:-margin]


def flatten(images: np.ndarray) -> np.ndarray:
    """From `[num_images, height, width]` to `[num_images, pixels]`."""
    return images.reshape(len(images), images.shape[1] * images.shape[2])


def to_unit(values: np.ndarray) -> np.ndarray:
    """Without mean and length, over the last axis; constants become 0."""
    values = values - values.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.where(norms > 1e-4, values / np.maximum(norms, 1e-4), 0)


def warp(images: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Stretches by `1 + parameters[:2]`, then shifts by shares of the side.

    Args:
        images: float32 `[num_images, size, size]`.
        parameters: `[num_images, 4]`, stretch and shift of rows and columns.
    """
    size = images.shape[1]
    rows = _make_matrices(size, parameters[:, 0], parameters[:, 2])
    columns = _make_matrices(size, parameters[:, 1], parameters[:, 3])
    return rows @ images @ columns.transpose(0, 2, 1)


def align(
    fixed: np.ndarray,
    moving: np.ndarray,
    start: np.ndarray,
    middle: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Parameters of `warp` that make each `moving` fit best, from `start` on.

    Gauss-Newton on the correlation (Evangelidis and Psarakis, 2008), which
    keeps the best step that it has seen. Images are float32 `[num_images, size,
    size]`, parameters float64 `[num_images, 4]`; they stay near `middle`.
    """
    low = np.broadcast_to(middle - MAX_DEFORMATION, start.shape)
    high = np.broadcast_to(middle + MAX_DEFORMATION, start.shape)
    targets = to_unit(flatten(inner(fixed)))
    best = start.copy()
    best_correlation = np.full(len(fixed), -np.inf)
    parameters = start.copy()
    active = np.arange(len(fixed))
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        correlation, step = _find_step(
            targets[active], moving[active], parameters[active]
        )
        improved = correlation > best_correlation[active]
        better = active[improved]
        best[better] = parameters[better]
        best_correlation[better] = correlation[improved]
        moved = np.clip(parameters[active] + step, low[active], high[active])
        change = np.abs(moved - parameters[active]).max(axis=1)
        parameters[active] = moved
        active = active[change >= MIN_STEP]
    return best


def _find_step(
    targets: np.ndarray, moving: np.ndarray, parameters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations at `parameters`, and what to add to these."""
    num_images, size = moving.shape[:2]
    warped = warp(moving, parameters)
    values = flatten(inner(warped))
    values = values - values.mean(axis=1, keepdims=True)
    norms = np.maximum(np.linalg.norm(values, axis=1), 1e-4)[:, None]
    units = values / norms
    correlation = (units * targets).sum(axis=1)
    distance = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / size
    stretch = (1 + parameters[:, :2]).astype(np.float32)[:, :, None, None]
    rows = inner(np.gradient(warped, axis=1) / stretch[:, 0])
    columns = inner(np.gradient(warped, axis=2) / stretch[:, 1])
    distance = inner(np.broadcast_to(distance, (1, size, size)))
    slopes = np.stack(
        [rows * distance.transpose(0, 2, 1), columns * distance, rows, columns],
        axis=1,
    ).reshape(num_images, 4, targets.shape[1])
    slopes *= size
    slopes = (slopes - slopes.mean(axis=2, keepdims=True)) / norms[:, None]
    along = (slopes @ units[:, :, None])[:, :, 0]
    slopes -= along[:, :, None] * units[:, None]
    squares = (slopes @ slopes.transpose(0, 2, 1)).astype(np.float64)
    missing = (slopes @ (targets - units)[:, :, None]).astype(np.float64)
    diagonal = np.eye(4)
    damped = squares * (1 + 1e-3 * diagonal) + 1e-9 * diagonal
    return correlation, np.linalg.solve(damped, missing)[:, :, 0]


def _make_matrices(
    size: int, stretch: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Interpolation along one axis, float32 `[num_images, size, size]`."""
    center = (size - 1) / 2
    places = (1 + stretch)[:, None] * (np.arange(size) - center)
    places = np.clip(places + center + shift[:, None] * size, 0, size - 1)
    first = np.minimum(places.astype(np.int64), size - 2)
    after = (places - first)[:, :, None]
    # Cubic B-spline weights of the four nodes around a place.
    weights = np.concatenate(
        [
            (1 - after) ** 3,
            3 * after**3 - 6 * after**2 + 4,
            -3 * after**3 + 3 * after**2 + 3 * after + 1,
            after**3,
        ],
        axis=2,
    )
    matrices = np.zeros((len(places), size, size + 2), np.float32)
    nodes = first[:, :, None] + np.arange(4)
    np.put_along_axis(matrices, nodes, (weights / 6).astype(np.float32), 2)
    return matrices @ _spline_filter(size)


@functools.cache
def _spline_filter(size: int) -> np.ndarray:
    """From pixels to spline coefficients, one of them beyond each end.

    Returns:
        float32 `[size + 2, size]`.
    """
    mirrored = np.eye(size + 2, size, -1)
    mirrored[0, 1] = mirrored[-1, -2] = 1
    between = np.eye(size, size + 2) + 4 * np.eye(size, size + 2, 1)
    between += np.eye(size, size + 2, 2)
    inverse = np.linalg.inv(between / 6 @ mirrored)
    return (mirrored @ inverse).astype(np.float32)
