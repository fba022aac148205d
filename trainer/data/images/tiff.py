"""TIFF files whose types of numbers Pillow does not know.

Floats of 16 and 64 bits, signed and big-endian integers, several channels.
"""

import io
import itertools
import logging

import numpy as np
import tifffile

from trainer.data.images.image import (
    MAX_IMAGES,
    Image,
    Window,
    apply_window,
    check_number,
    check_pages,
    check_size,
    check_volume,
    reduce_channels,
)


def read_images(data: bytes, window: Window | None) -> list[Image]:
    """Reads every page of its own.

    Raises:
        ValueError: if it cannot be read.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        found = iter(tifffile.TiffFile(io.BytesIO(data)).pages)
        found = list(itertools.islice(found, MAX_IMAGES + 1))
        pages = [page for page in found if _is_full(page)]
        shapes = [
            (int(p.imagewidth), int(p.imagelength), int(p.samplesperpixel))
            for p in pages
        ]
        num_bits = [8 * page.dtype.itemsize for page in pages]
    # tifffile promises no set of errors.
    except Exception as error:
        raise _damaged(error) from error
    check_number(len(found))
    if not pages:
        raise ValueError("it is a damaged TIFF file (no pages)")
    for shape in shapes:
        check_size(*shape[:2])
        check_volume(shape, 1)
    check_pages(shapes)
    return [
        Image(
            _show(page, window),
            source_format="tiff",
            bit_depth=num_bits[index],
            num_bytes=len(data) // len(pages),
            suffix=f"#{index}" if len(pages) > 1 else "",
        )
        for index, page in enumerate(pages)
    ]


def _is_full(page: tifffile.TiffPage) -> bool:
    """Neither a smaller version nor a mask of another page."""
    return not page.subfiletype & 0b101


def _damaged(error: Exception) -> ValueError:
    return ValueError(
        f"it is a damaged TIFF file ({type(error).__name__}), or its numbers "
        "are packed in a way that is not read; save it without compression"
    )


def _show(page: tifffile.TiffPage, window: Window | None) -> np.ndarray:
    """uint8 `[height, width]`, or `[height, width, 3]` of colours."""
    try:
        values = page.asarray()
        if page.samplesperpixel > 1:
            if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
                values = np.moveaxis(values, 0, -1)
            # Of several channels that are no colours, the first is the image.
            is_colour = page.photometric == tifffile.PHOTOMETRIC.RGB
            values = values[..., :3] if is_colour else values[..., 0]
        size = (page.imagelength, page.imagewidth)
        if values.shape not in (size, (*size, 3)):
            raise ValueError(f"Its pixels have the shape {values.shape}.")
        if values.dtype.kind not in "iuf":
            raise ValueError(f"Its pixels are of type {values.dtype}.")
    # See `read_images`.
    except Exception as error:
        raise _damaged(error) from error
    if values.dtype == np.float16:  # too coarse to find a window in
        values = values.astype(np.float32)
    if values.dtype != np.uint8:
        values = apply_window(values, window)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        values = 255 - values
    return reduce_channels(values)
