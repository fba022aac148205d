"""JPEG, PNG and other formats that Pillow knows -> pixels."""

import io
import warnings

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageChops
import PIL.ImageOps
import PIL.JpegImagePlugin

from trainer.data.images import strip
from trainer.data.images.image import (
    TOO_MANY,
    Image,
    Window,
    apply_window,
    check_size,
)

# Not all that Pillow knows: it would hand EPS files to Ghostscript.
FORMATS = (
    *("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX"),
    *("PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
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


def read_images(data: bytes, window: Window | None) -> list[Image]:
    """The images of a file; see `readers.read_images`."""
    try:
        # Pillow warns of odd headers on standard error; what counts, raises.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                return _read_pages(opened, data, window)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"its pixels are {TOO_MANY}") from error
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
    opened: PIL.Image.Image, data: bytes, window: Window | None
) -> list[Image]:
    check_size(*opened.size)
    if opened.format in ("JPEG", "PNG"):
        return [_read_keeping_bytes(opened, data, window)]
    pages = [0]
    if opened.format == "TIFF":
        pages = _full_pages(opened) or pages
    images = []
    for page in pages:
        opened.seek(page)
        check_size(*opened.size)
        images.append(
            Image(
                _to_uint8(opened, window),
                source_format=(opened.format or "unknown").lower(),
                bit_depth=_bit_depth(opened),
                num_bytes=len(data) // len(pages),
                suffix=f"#{page}" if len(pages) > 1 else "",
            )
        )
    return images


def _full_pages(opened: PIL.Image.Image) -> list[int]:
    """Pages that are neither smaller versions nor masks of others."""
    pages = []
    for page in range(getattr(opened, "n_frames", 1)):
        opened.seek(page)
        # NewSubfileType and, before 1992, SubfileType.
        if (
            not opened.tag_v2.get(254, 0) & 0b101
            and opened.tag_v2.get(255) != 2
        ):
            pages.append(page)
    return pages


def _read_keeping_bytes(
    opened: PIL.Image.Image, data: bytes, window: Window | None
) -> Image:
    """A JPEG or PNG, with the bytes of the file if these are its pixels."""
    kept_format = opened.format.lower()
    kept = strip.strip(data, kept_format)
    if kept_format == "jpeg":
        quality, bit_depth = _estimate_quality(opened), 8
        keeps_bytes = opened.mode in ("L", "RGB")
    else:
        quality, bit_depth = 0, data[24]  # in the header
        keeps_bytes = bit_depth == 8
        # Pillow knows eXIf and text chunks behind the pixels only after this.
        opened.load()
    keeps_bytes = keeps_bytes and not _is_rotated(opened)
    return Image(
        pixels=_to_uint8(opened, window),
        source_format=kept_format,
        bit_depth=bit_depth,
        num_bytes=len(data),
        kept_format=kept_format if keeps_bytes else "",
        kept_bytes=kept if keeps_bytes else b"",
        quality=quality,
    )


def _is_rotated(opened: PIL.Image.Image) -> bool:
    return opened.getexif().get(PIL.ExifTags.Base.Orientation, 1) not in (0, 1)


def _to_uint8(opened: PIL.Image.Image, window: Window | None) -> np.ndarray:
    """Upright pixels; transparency is ignored, as TensorFlow does."""
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
