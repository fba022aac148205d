"""JPEG, PNG and other formats that Pillow knows -> pixels."""

import contextlib
import io
import itertools
import re
import sys
import warnings

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageChops
import PIL.ImageOps
import PIL.JpegImagePlugin
from PIL import TiffImagePlugin

from trainer.data.images import strip, tiff
from trainer.data.images.image import (
    TOO_MANY,
    Image,
    Window,
    apply_window,
    check_number,
    check_pages,
    check_size,
    reduce_channels,
    turn,
)

# Not all that Pillow knows: it would hand EPS files to Ghostscript.
FORMATS = (
    *("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX"),
    *("PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
)
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = PIL.ExifTags.Base.Orientation
# Of Windows: title, comment, author, keywords and subject.
_UTF_16 = range(0x9C9B, 0x9CA0)
# EXIF is read by its tags.
_NO_TEXTS = ("exif", "icc_profile", "photoshop")
_MAX_TEXT = 4096

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
                if not _is_misread(opened):
                    return _read_pages(opened, data, window)
        return tiff.read_images(data, window)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"its pixels are {TOO_MANY}") from error
    except PIL.UnidentifiedImageError as error:
        if data[:4] in _TIFF_STARTS:
            return tiff.read_images(data, window)
        raise ValueError(_describe_unknown(data)) from error
    except ValueError:
        raise
    # Pillow's decoders promise no set of errors for damaged files.
    except Exception as error:
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


def _is_misread(opened: PIL.Image.Image) -> bool:
    """Whether Pillow takes the numbers of a TIFF for others."""
    if opened.format != "TIFF":
        return False
    tags = opened.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    is_signed = 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ())
    is_planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    # It swaps bytes that libtiff has swapped.
    is_packed = tags.get(TiffImagePlugin.COMPRESSION, 1) != 1
    is_swapped = tags.prefix == b"MM" and is_packed
    return (
        (bits == 8 and is_signed)
        or (bits > 8 and is_planar)
        or (opened.mode in ("I", "F") and is_swapped)
    )


def _read_pages(
    opened: PIL.Image.Image, data: bytes, window: Window | None
) -> list[Image]:
    check_size(*opened.size)
    if opened.format in ("JPEG", "PNG"):
        return [_read_keeping_bytes(opened, data, window)]
    pages, shapes, images = [0], [], []
    if opened.format == "TIFF":
        pages = _full_pages(opened) or pages
    for page in pages:
        opened.seek(page)
        check_size(*opened.size)
        shapes.append((*opened.size, len(opened.getbands())))
    check_pages(shapes)
    for page in pages:
        opened.seek(page)
        images.append(
            Image(
                _to_uint8(opened, data, window),
                source_format=(opened.format or "unknown").lower(),
                bit_depth=_bit_depth(opened),
                num_bytes=len(data) // len(pages),
                suffix=f"#{page}" if len(pages) > 1 else "",
                identifiers=_list_texts(opened),
            )
        )
    return images


def _full_pages(opened: PIL.Image.Image) -> list[int]:
    """Pages that are neither smaller versions nor masks of others."""
    pages = []
    for page in itertools.count():
        check_number(page + 1)
        try:
            opened.seek(page)
        except EOFError:
            break
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
    """A JPEG or PNG, with the bytes of the file if these are its pixels.

    `preprocessing.make_plain` does the same to bytes that clients send.
    """
    kept_format = opened.format.lower()
    orientation = strip.find_orientation(data, kept_format)
    quality, bit_depth = 0, data[24]  # in the header of a PNG
    if kept_format == "jpeg":
        quality, bit_depth = _estimate_quality(opened), 8
    keeps_bytes = bit_depth <= 8 and orientation == 1 and opened.mode != "CMYK"
    return Image(
        pixels=turn(_to_uint8(opened, data, window), orientation),
        source_format=kept_format,
        bit_depth=bit_depth,
        num_bytes=len(data),
        kept_format=kept_format if keeps_bytes else "",
        kept_bytes=strip.strip(data, kept_format) if keeps_bytes else b"",
        quality=quality,
        identifiers=_list_texts(opened),
    )


def _decode_text(name: str | int, value: object) -> str:
    """The text that is under a name or a tag, "" if it is none."""
    if isinstance(value, str):
        # Pillow takes all bytes of EXIF for Latin-1.
        with contextlib.suppress(UnicodeError):
            value = value.encode("latin-1").decode("utf-8")
        return value[:_MAX_TEXT]
    if not isinstance(value, bytes):
        return ""
    encoding = "utf-16-le" if name in _UTF_16 else "utf-8"
    return value[:_MAX_TEXT].decode(encoding, "ignore")


def _list_texts(opened: PIL.Image.Image) -> tuple[str, ...]:
    """What EXIF, comments and text chunks say, and the words of it."""
    values = {k: v for k, v in opened.info.items() if k not in _NO_TEXTS}
    # Damaged EXIF is no reason to refuse the pixels.
    with contextlib.suppress(Exception):
        exif = opened.getexif()
        values |= {**exif, **exif.get_ifd(PIL.ExifTags.IFD.Exif)}
    texts = []
    for name, value in values.items():
        text = _decode_text(name, value)
        parts = [text]
        if "<" in text:  # XMP: its tags say nothing.
            parts = re.findall(r'[>"]([^<>"]*[^<>"=])(?=[<"])', text)
        texts += parts
        # Neither do the parts of a type or an address.
        for part in parts:
            texts += [] if "/" in part else re.findall(r"[^\W_]{4,}", part)
    return tuple(dict.fromkeys(text for text in texts if len(text) >= 4))


def _to_uint8(
    opened: PIL.Image.Image, data: bytes, window: Window | None
) -> np.ndarray:
    """Pixels without their transparency, which TensorFlow ignores too.

    Upright, if they are none of a JPEG or PNG.
    """
    deep = _read_deep_colour(opened, data)
    if deep is not None:
        return reduce_channels(apply_window(deep, window))
    upright: PIL.Image.Image = opened
    is_kept = opened.format in ("JPEG", "PNG")
    if not is_kept and opened.getexif().get(_ORIENTATION, 1) != 1:
        upright = PIL.ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I") or upright.mode == "F":
        grey = apply_window(np.asarray(upright), window)
        # Pillow inverts only values of at most 8 bits.
        return 255 - grey if _is_min_white(opened) else grey
    if upright.mode in ("1", "L", "LA", "La"):
        return np.array(_convert(upright, "L"))
    colour = _convert(upright, "RGB")
    # As `reduce_channels`, but Pillow is several times faster at it.
    first, second, third = colour.split()
    if _are_equal(first, second) and _are_equal(first, third):
        return np.array(first)
    return np.array(colour)


def _is_min_white(opened: PIL.Image.Image) -> bool:
    tags = opened.tag_v2 if opened.format == "TIFF" else {}
    return tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def _read_deep_colour(
    opened: PIL.Image.Image, data: bytes
) -> np.ndarray | None:
    """uint16 colours, or grey beside alpha; None if they have other types.

    Pillow takes the high byte of each. It is told to take the low one too, by
    a raw mode of the other byte order.
    """
    if opened.format not in ("PNG", "TIFF"):
        return None
    args = opened.tile[0][3]
    raw = args if isinstance(args, str) else args[0]
    kind, _, order = raw.partition(";16")
    if order == "N":
        order = sys.byteorder[0].upper()
    if kind == "LA" and order:
        # As four bytes, of which two are alpha.
        high, low, *_ = np.moveaxis(_decode_as("RGBA", opened, data), -1, 0)
    elif kind in ("RGB", "RGBX", "RGBA", "RGBa") and order in ("B", "L"):
        # A small letter would have alpha divided out.
        kind = kind.upper()
        other = {"B": "L", "L": "B"}[order]
        high, low = (
            _decode_as(f"{kind};16{byte_order}", opened, data)[..., :3]
            for byte_order in (order, other)
        )
    else:
        return None
    return high.astype(np.uint16) << 8 | low


def _decode_as(raw: str, opened: PIL.Image.Image, data: bytes) -> np.ndarray:
    """Decodes a page anew, its bytes taken for a raw mode of Pillow."""
    with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as again:
        again.seek(opened.tell())
        again.tile = [
            (*tile, raw if isinstance(args, str) else (raw, *args[1:]))
            for *tile, args in again.tile
        ]
        return np.asarray(again)


def _convert(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    # `convert` would copy an image that has the mode already.
    return image if image.mode == mode else image.convert(mode)


def _are_equal(first: PIL.Image.Image, second: PIL.Image.Image) -> bool:
    return PIL.ImageChops.difference(first, second).getbbox() is None


def _bit_depth(opened: PIL.Image.Image) -> int:
    if opened.format == "TIFF":
        return max(opened.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if opened.mode.startswith(("I", "F")):
        return 16 if opened.mode.startswith("I;16") else 32
    return 1 if opened.mode == "1" else 8


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
