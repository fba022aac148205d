"""One file -> pixels, and the bytes that stand for it in a data set.

The content decides what a file is, never its extension. The same function
serves `build_records` and `serving.predict`, so a scan that a client sends has
the pixels it would have had in training. DICOM and NIfTI are left to
`medical_readers`. TensorFlow is not imported: workers and REST clients start
quickly without it.
"""

import dataclasses
import functools
import hashlib
import io
import os
import warnings

import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageOps
import PIL.JpegImagePlugin

from trainer.data.images import strip

# Refused by their header, before decoding: 64 million pixels are a film of
# 8,000 x 8,000; a PNG of 140 KB can unfold into far more.
MAX_PIXELS = 64_000_000

# Not all that Pillow knows: it would hand EPS files to Ghostscript.
PILLOW_FORMATS = (
    "BMP",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "PCX",
    "PNG",
    "PPM",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)

# What people have and this does not read, by the first bytes of the file.
_OTHER_FORMATS = (
    (b"NRRD", "an NRRD volume"),
    (b"ObjectType", "a MetaImage volume"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB", "a MATLAB file"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"mif1", b"hevc", b"avif")

# An image is grey if at most 5 % of its pixels differ by more than 32 levels
# between channels. Measured on 253 MRI slices from the web: photographed
# films, tinted scans and coloured banners reach 4.0 %; fundus, skin and
# histology images have such colour nearly everywhere.
GREY_MAX_DIFFERENCE = 32
GREY_MAX_FRACTION = 0.05

# Values of more than 8 bits are mapped to [0, 255] between these percentiles
# of the image, unless a window is given: a few hot pixels or a metal implant
# must not darken the rest.
WINDOW_PERCENTILES = (0.5, 99.5)

# 348 of version 1 and 540 of version 2, in both byte orders.
NIFTI_HEADER_SIZES = (
    b"\x5c\x01\0\0",
    b"\0\0\x01\x5c",
    b"\x1c\x02\0\0",
    b"\0\0\x02\x1c",
)

_ORIENTATION_TAG = 0x0112


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


def read_images(
    path: str,
    *,
    window_center: float | None = None,
    window_width: float | None = None,
    slice_axis: int = 2,
) -> list[Image]:
    """Reads every image of a file: one, or the slices of a volume.

    Args:
        path: JPEG, PNG, BMP, GIF (first frame), TIFF (every page), another of
            `PILLOW_FORMATS`, DICOM (every frame) or NIfTI (every slice that
            is not empty).
        window_center: middle of the window for values of more than 8 bits,
            in the units of the file.
        window_width: its width; both or neither are given.
        slice_axis: axis that a NIfTI volume is cut along: 0 sagittal, 1
            coronal, 2 axial.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image. The message says why,
            and leaves it to the caller to name the file.
    """
    with open(path, "rb") as file:
        data = file.read()
    return decode_images(data, window_center, window_width, slice_axis)


def decode_images(
    data: bytes,
    window_center: float | None = None,
    window_width: float | None = None,
    slice_axis: int = 2,
) -> list[Image]:
    """The images of a file that is in memory; see `read_images`."""
    check_window(window_center, window_width)
    window = None
    if window_center is not None:
        window = (window_center, window_width)
    if not data:
        raise ValueError("the file is empty")
    if is_medical(data):
        # Imported here: most users have neither pydicom nor nibabel.
        from trainer.data.images import medical_readers

        return medical_readers.read_images(data, window, slice_axis)
    return _read_with_pillow(data, window)


def check_window(
    window_center: float | None, window_width: float | None
) -> None:
    """Raises ValueError unless both are given, or neither."""
    if (window_center is None) != (window_width is None):
        raise ValueError(
            "window_center and window_width go together. Received: "
            f"window_center={window_center}, window_width={window_width}."
        )
    if window_width is not None and window_width <= 0:
        raise ValueError(
            f"window_width must be positive. Received: {window_width}."
        )


def is_medical(data: bytes) -> bool:
    """Whether the bytes look like a DICOM or NIfTI file."""
    is_dicom = data[128:132] == b"DICM" or (
        # Without the preamble, a file starts with group 2 or 8.
        data[:4] in (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0")
        or (data[:2] == b"\x08\0" and data[4:6].isupper())
    )
    is_nifti = data[:4] in NIFTI_HEADER_SIZES
    return is_dicom or is_nifti or data[:2] == b"\x1f\x8b"


def check_size(width: int, height: int) -> None:
    """Raises ValueError if an image is too large to be decoded."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are {_too_many()}")


def _too_many() -> str:
    return (
        f"more than the {MAX_PIXELS:,} that are accepted; scale the image down "
        "or cut it into tiles"
    )


def find_window(values: np.ndarray) -> tuple[float, float]:
    """Center and width that show all but a few outliers.

    Args:
        values: of any shape and number type; NaN and infinity do not count.
    """
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    if high <= low:  # a few bright pixels on an empty ground
        low, high = float(values.min()), float(values.max())
    return float(low + high) / 2, float(high - low)


def apply_window(
    values: np.ndarray, window: tuple[float, float] | None
) -> np.ndarray:
    """Maps values to uint8 in [0, 255].

    Args:
        values: of any shape and number type; NaN becomes 0.
        window: (center, width); robust percentiles if None.
    """
    center, width = find_window(values) if window is None else window
    if width <= 0:
        return np.zeros(values.shape, np.uint8)
    low = center - width / 2
    scaled = (values.astype(np.float64) - low) * (255 / width)
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


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
    coloured = np.count_nonzero(difference > GREY_MAX_DIFFERENCE)
    return coloured <= GREY_MAX_FRACTION * difference.size


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


def make_image(
    pixels: np.ndarray,
    *,
    source_format: str,
    bit_depth: int,
    num_bytes: int,
    suffix: str = "",
    patient_id: str = "",
    identifiers: tuple[str, ...] = (),
) -> Image:
    """An image whose file cannot be kept as it is."""
    return Image(
        pixels=reduce_channels(pixels),
        source_format=source_format,
        bit_depth=bit_depth,
        num_bytes=num_bytes,
        suffix=suffix,
        patient_id=patient_id,
        identifiers=identifiers,
    )


def _read_with_pillow(
    data: bytes, window: tuple[float, float] | None
) -> list[Image]:
    try:
        # Pillow warns of odd headers on standard error; what counts, raises.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(
                io.BytesIO(data), formats=PILLOW_FORMATS
            ) as opened:
                return _read_pages(opened, data, window)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"its pixels are {_too_many()}") from error
    except PIL.UnidentifiedImageError as error:
        raise ValueError(_describe_unknown(data)) from error
    # What Pillow's decoders raise on damaged files, beside its own errors.
    except (
        OSError,
        SyntaxError,
        EOFError,
        KeyError,
        IndexError,
        OverflowError,
        TypeError,
        NotImplementedError,
        MemoryError,
    ) as error:
        raise ValueError(f"it is damaged ({error})") from error


def _describe_unknown(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "it is a HEIF photo, which is not read; convert it to PNG"
    for start, name in _OTHER_FORMATS:
        if data.startswith(start):
            return (
                f"it is {name}, which is not read; convert it to PNG, DICOM or "
                "NIfTI"
            )
    return "it is not an image that can be read"


def _read_pages(
    opened: PIL.Image.Image,
    data: bytes,
    window: tuple[float, float] | None,
) -> list[Image]:
    check_size(*opened.size)
    if opened.format == "JPEG":
        return [_read_jpeg(opened, data)]
    if opened.format == "PNG":
        return [_read_png(opened, data, window)]
    num_pages = 1
    if opened.format == "TIFF":
        num_pages = getattr(opened, "n_frames", 1)
    images = []
    for page in range(num_pages):
        opened.seek(page)
        check_size(*opened.size)
        images.append(
            make_image(
                _to_uint8(opened, window),
                source_format=(opened.format or "unknown").lower(),
                bit_depth=_bit_depth(opened),
                num_bytes=len(data) // num_pages,
                suffix=f"#{page}" if num_pages > 1 else "",
            )
        )
    return images


def _read_jpeg(opened: PIL.Image.Image, data: bytes) -> Image:
    quality = _estimate_quality(opened)
    kept = strip.strip_jpeg(data)
    keeps_bytes = opened.mode in ("L", "RGB") and not _is_rotated(opened)
    return Image(
        pixels=_to_uint8(opened, None),
        source_format="jpeg",
        bit_depth=8,
        num_bytes=len(data),
        kept_format="jpeg" if keeps_bytes else "",
        kept_bytes=kept if keeps_bytes else b"",
        quality=quality,
    )


def _read_png(
    opened: PIL.Image.Image,
    data: bytes,
    window: tuple[float, float] | None,
) -> Image:
    bit_depth = strip.png_bit_depth(data)
    kept = strip.strip_png(data)
    # Pillow knows eXIf and text chunks behind the pixels only after `load`.
    opened.load()
    keeps_bytes = bit_depth == 8 and not _is_rotated(opened)
    return Image(
        pixels=_to_uint8(opened, window),
        source_format="png",
        bit_depth=bit_depth,
        num_bytes=len(data),
        kept_format="png" if keeps_bytes else "",
        kept_bytes=kept if keeps_bytes else b"",
    )


def strip_metadata(data: bytes, kept_format: str) -> bytes:
    """`Image.kept_bytes` of a file that was read before."""
    if kept_format == "jpeg":
        return strip.strip_jpeg(data)
    return strip.strip_png(data)


def _is_rotated(opened: PIL.Image.Image) -> bool:
    return opened.getexif().get(_ORIENTATION_TAG, 1) not in (0, 1)


def _to_uint8(
    opened: PIL.Image.Image, window: tuple[float, float] | None
) -> np.ndarray:
    """Upright pixels; transparency is ignored, as TensorFlow does.

    Returns:
        uint8 `[height, width]`, or `[height, width, 3]` if the channels differ
        anywhere.
    """
    upright = opened
    if _is_rotated(opened):
        upright = PIL.ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I") or upright.mode == "F":
        return apply_window(np.asarray(upright), window)
    if upright.mode in ("1", "L", "LA", "La"):
        return np.array(_convert(upright, "L"))
    colour = _convert(upright, "RGB")
    # As `reduce_channels`, but Pillow is several times faster at it.
    first, second, third = colour.split()
    if _are_equal(first, second) and _are_equal(first, third):
        return np.array(first)
    return np.array(colour)


def _convert(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    # `convert` would copy an image that has the mode already.
    return image if image.mode == mode else image.convert(mode)


def _are_equal(first: PIL.Image.Image, second: PIL.Image.Image) -> bool:
    return PIL.ImageChops.difference(first, second).getbbox() is None


def _bit_depth(opened: PIL.Image.Image) -> int:
    if opened.mode == "1":
        return 1
    if opened.mode in ("I", "F"):
        return 32
    return 16 if opened.mode.startswith("I;16") else 8


def _estimate_quality(opened: PIL.Image.Image) -> int:
    """JPEG quality from the mean of the luminance quantization table."""
    tables = getattr(opened, "quantization", None)
    if not tables:
        return 0
    # 57.6 is the mean of the standard table, quality 50 (ITU-T T.81, Annex K,
    # scaled as by the Independent JPEG Group's library).
    scale = 100 * float(np.mean(tables[min(tables)])) / 57.625
    quality = 5000 / scale if scale > 100 else (200 - scale) / 2
    return int(np.clip(round(quality), 1, 100))


def describe_path(path: str) -> str:
    """The path as messages show it: relative to the current directory."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
