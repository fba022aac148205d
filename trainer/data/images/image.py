"""One image and what is done with any of them, whatever its file was."""

import dataclasses
import functools
import hashlib
import io
import math

import numpy as np
import PIL.Image

# Refused by their header, before decoding: 64 million pixels are a film of
# 8,000 x 8,000; a PNG of 140 KB can unfold into far more.
MAX_PIXELS = 64_000_000
TOO_MANY = (
    f"more than the {MAX_PIXELS:,} that are accepted; scale the image down or "
    "cut it into tiles"
)
# Of a volume: 2,000 slices of 1,024 x 1,024 pixels of 16 bits.
MAX_VOLUME_BYTES = 4 * 2**30
# Of what is packed, and may be a thousandth of that in the file.
MAX_PAGES_BYTES = MAX_VOLUME_BYTES // 4

# Pages, frames or slices: a small file can announce millions of one pixel.
MAX_IMAGES = 20_000

# Center and width, in the units of the file.
Window = tuple[float, float]

# First bytes of a NIfTI file, in either byte order -> its version.
NIFTI_VERSIONS = {
    header_size.to_bytes(4, order): version
    for version, header_size in ((1, 348), (2, 540))
    for order in ("little", "big")
}

# An image is grey if at most 5 % of its pixels differ by more than 32 levels
# between channels. Measured on 253 MRI slices from the web: photographed
# films, tinted scans and coloured banners reach 4.0 %; fundus, skin and
# histology images have such colour nearly everywhere.
_GREY_MAX_DIFFERENCE = 32
_GREY_MAX_FRACTION = 0.05

# Values of more than 8 bits are mapped to [0, 255] between these percentiles
# of the image, unless a window is given: a few hot pixels or a metal implant
# must not darken the rest.
WINDOW_PERCENTILES = (0.5, 99.5)


class NoImageError(ValueError):
    """A file is read, but what it holds is no image of a patient."""


@dataclasses.dataclass(frozen=True)
class Image:
    """One image of a file.

    Attributes:
        pixels: uint8 `[height, width]`, or `[height, width, 3]` if the
            channels differ anywhere.
        kept_format: "jpeg" or "png" if TensorFlow decodes the bytes of the
            file to these pixels, else "".
        kept_bytes: those bytes, without metadata.
        source_format: of the file, for example "jpeg", "tiff" or "dicom".
        bit_depth: bits per channel in the file.
        num_bytes: size of the file, shared among its images.
        suffix: "" for the only image of a file, else `#index`.
        quality: estimated JPEG quality of the file, 0 if it is no JPEG.
        patient_id: as a DICOM file has it, else "". Never to be written.
        uids: of study, series and frame of reference, as `patient_id`.
        identifiers: names in the file that its path could repeat.
    """

    pixels: np.ndarray
    source_format: str
    bit_depth: int
    num_bytes: int
    kept_format: str = ""
    kept_bytes: bytes = dataclasses.field(default=b"", repr=False)
    suffix: str = ""
    quality: int = 0
    patient_id: str = dataclasses.field(default="", repr=False)
    uids: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    identifiers: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def format(self) -> str:
        """ "jpeg" or "png", of `encoded`."""
        return self.kept_format or "png"

    @functools.cached_property
    def encoded(self) -> bytes:
        """JPEG or PNG bytes of these pixels, without metadata."""
        return self.kept_bytes or encode_png(self.pixels)


def check_size(width: int, height: int) -> None:
    """Raises ValueError if an image is too large to be decoded."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are {TOO_MANY}")


def check_volume(shape: tuple[int, ...], item_bytes: int) -> None:
    """Raises ValueError if a volume has no voxels, or too many."""
    text = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise ValueError(f"its header says that it has {text or 'no'} voxels")
    num_bytes = math.prod(shape) * item_bytes
    if num_bytes > MAX_VOLUME_BYTES:
        raise ValueError(
            f"its {text} voxels take {num_bytes / 2**30:.1f} GiB, more than "
            f"the {MAX_VOLUME_BYTES / 2**30:.0f} GiB that are accepted; split "
            "it"
        )


def check_number(number: int) -> None:
    """Raises ValueError if a file holds too many images."""
    if number > MAX_IMAGES:
        raise ValueError(
            f"it holds more than the {MAX_IMAGES:,} pages, frames or slices "
            "that are accepted; split it"
        )


def check_pages(shapes: list[tuple[int, ...]]) -> None:
    """Raises ValueError if pages, of which each is kept, are too large."""
    num_bytes = sum(map(math.prod, shapes))
    if num_bytes > MAX_PAGES_BYTES:
        raise ValueError(
            f"its {len(shapes):,} pages take {num_bytes / 2**30:.1f} GiB, more "
            f"than the {MAX_PAGES_BYTES / 2**30:.0f} GiB that are accepted; "
            "split it"
        )


def find_window(values: np.ndarray) -> Window:
    """The window that shows all finite values but a few outliers."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    if high <= low:  # a few bright pixels on an empty ground
        low, high = float(values.min()), float(values.max())
    return float(low + high) / 2, float(high - low)


def apply_window(values: np.ndarray, window: Window | None) -> np.ndarray:
    """Maps values, of which NaN becomes 0, to uint8 in [0, 255].

    Without a window, robust percentiles are one.
    """
    center, width = find_window(values) if window is None else window
    if width <= 0:
        return np.zeros(values.shape, np.uint8)
    low = center - width / 2
    scaled = (values.astype(np.float64) - low) * (255 / width)
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright pixels of stored ones, by their EXIF orientation."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    flips = (orientation - 1) % 4
    if flips in (1, 2):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if flips >= 2 else pixels


def reduce_channels(pixels: np.ndarray) -> np.ndarray:
    """Drops two of three channels if all are equal."""
    if pixels.ndim == 3:
        first = pixels[..., 0]
        if np.array_equal(first, pixels[..., 1]) and np.array_equal(
            first, pixels[..., 2]
        ):
            return np.ascontiguousarray(first)
    return pixels


def is_grey(pixels: np.ndarray) -> bool:
    """Whether an image has no colour beyond noise, tint and small marks."""
    if pixels.ndim == 2:
        return True
    difference = pixels.max(axis=2) - pixels.min(axis=2)
    coloured = np.count_nonzero(difference > _GREY_MAX_DIFFERENCE)
    return coloured <= _GREY_MAX_FRACTION * difference.size


def pixel_sha256(pixels: np.ndarray) -> str:
    """Hex sha256 over the shape and the pixels, grey ones as one channel."""
    pixels = reduce_channels(pixels)
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 `[height, width]` or `[height, width, 3]`."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
