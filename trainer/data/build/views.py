"""Views of an image that copies may show: turned, mirrored or cropped.

Copies are looked for by coarse thumbnails of these views. A view need not fit
to the pixel: `alignment` starts from it.
"""

import dataclasses
import functools

import numpy as np

# Side of the coarse thumbnails: so few pixels bear crops between the views.
SIDE = 8


@dataclasses.dataclass(frozen=True)
class View:
    """One of eight orientations, and which part of it is seen."""

    orientation: int = 0
    scale: float = 1.0
    row_shift: float = 0.0
    column_shift: float = 0.0

    @property
    def cutting(self) -> np.ndarray:
        """Parameters of `alignment.warp` that cut out what is seen."""
        stretch = self.scale - 1
        return np.array([stretch, stretch, self.row_shift, self.column_shift])

    @property
    def laying(self) -> np.ndarray:
        """Those that lay what is seen onto the whole again."""
        return -self.cutting / self.scale

    @property
    def reverse(self) -> "View":
        """The view that turns back."""
        rows_and_columns = {5: 6, 6: 5}
        return View(rows_and_columns.get(self.orientation, self.orientation))

    def orient(self, images: np.ndarray) -> np.ndarray:
        """Turns or mirrors squares, `[num_images, size, size]`."""
        if self.orientation & 4:
            images = images.transpose(0, 2, 1)
        rows, columns = (
            slice(None, None, -1 if self.orientation & bit else 1)
            for bit in (2, 1)
        )
        return images[:, rows, columns]

    def shrink(self, thumbnails: np.ndarray) -> np.ndarray:
        """Coarse thumbnails of the view, float32 `[num_images, SIDE**2]`.

        Of a turned image all is seen, so that what is coarse can be turned.
        """
        size = thumbnails.shape[1]
        rows = _average_matrix(size, self.scale, self.row_shift)
        columns = _average_matrix(size, self.scale, self.column_shift).T
        coarse = np.empty((len(thumbnails), SIDE**2), np.float32)
        for start in range(0, len(thumbnails), 1024):
            block = thumbnails[start : start + 1024]
            # One large product is faster than one for each image.
            means = block.astype(np.float32).reshape(-1, size) @ columns
            means = self.orient(rows @ means.reshape(len(block), size, SIDE))
            coarse[start : start + 1024] = means.reshape(len(block), -1)
        return coarse


AS_IT_IS = View()
# Crops keep 80 % of the sides or more if they are in the middle, else 90 %.
_CORNERS = [
    (scale, row_shift, column_shift)
    for scale, shift in ((0.96, 0.018), (0.92, 0.035))
    for row_shift in (-shift, shift)
    for column_shift in (-shift, shift)
]
_CENTERS = [(scale, 0.0, 0.0) for scale in (0.955, 0.91, 0.86, 0.81)]
OTHERS = (
    *(View(orientation) for orientation in range(1, 8)),
    *(View(0, *crop) for crop in (*_CENTERS, *_CORNERS)),
)


@functools.cache
def _average_matrix(size: int, scale: float, shift: float) -> np.ndarray:
    """From `size` pixels to means over `SIDE` stretches of a part of them."""
    ends = np.arange(SIDE + 1) / SIDE - 0.5
    ends = (0.5 + shift + scale * ends) * size
    pixels = np.arange(size)
    overlap = np.minimum(ends[1:, None], pixels + 1) - np.maximum(
        ends[:-1, None], pixels
    )
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
