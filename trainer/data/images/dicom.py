"""DICOM files -> frames as a radiologist sees them.

pydicom reads the file, pylibjpeg decodes what is compressed; here stored
values become grey ones, and whatever would be too large is refused before it
is unfolded. No text of the header gets into a message: it may name a patient.
"""

import contextlib
import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import pydicom
from pydicom import config, encaps, pixels, uid
from pydicom.pixels import utils

from trainer.data.images import dicom_header, dicom_values
from trainer.data.images.image import (
    MAX_PAGES_BYTES,
    Image,
    NoImageError,
    Window,
    apply_window,
    check_number,
    check_size,
    check_volume,
    reduce_channels,
)

_PIXEL_NAMES = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# By SOP class, and by values of ImageType.
_NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose distribution",
}
_NO_IMAGE_TYPES = {
    "a localizer": re.compile("LOCALIZER|SCOUT"),
    "a screen capture": re.compile(
        "SCREEN.?(SAVE|SHOT|CAPTURE)|DOSE.?(INFO|REPORT)"
    ),
}


def read_images(data: bytes, window: Window | None) -> list[Image]:
    """Reads every frame.

    Pixels that are not square stay as they are, as in other tools that make
    pictures of slices: models resize their input anyway.

    Raises:
        ValueError: if it cannot be read. The message says why, and repeats
            nothing of the header that could name a patient.
    """
    with warnings.catch_warnings():
        # Both quote values of the header.
        warnings.simplefilter("ignore")
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)
        _check_deflated(data)
        dataset = _parse(data)
        _check_header(dataset)
        _check_syntax(dataset)
        frames = _decode(dataset)
        with _refusing("its DICOM header has wrong values ({kind})"):
            return _convert(dataset, frames, window, len(data))


@contextlib.contextmanager
def _refusing(reason: str) -> Iterator[None]:
    """Gives any error the words of ours, with its `kind`.

    Any element can be damaged in any way, and neither pydicom nor the decoders
    promise a set of errors; their text may name a patient.
    """
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(reason.format(kind=kind)) from error


def _check_deflated(data: bytes) -> None:
    """Raises ValueError if a deflated file unfolds into too much."""
    if _DEFLATED not in data[:2048]:
        return
    # Behind the preamble, a first element holds the length of its group.
    if data[128:140] != b"DICM\x02\0\0\0UL\x04\0":
        raise ValueError("it is a damaged DICOM file (its meta header)")
    start = 144 + int.from_bytes(data[140:144], "little")
    inflater, pending, num_bytes = zlib.decompressobj(-15), data[start:], 0
    try:
        while pending and not inflater.eof:
            num_bytes += len(inflater.decompress(pending, 2**24))
            pending = inflater.unconsumed_tail
            if num_bytes > MAX_PAGES_BYTES:
                raise ValueError(
                    f"it unfolds into more than {MAX_PAGES_BYTES:,} bytes; "
                    "convert it to Explicit VR Little Endian"
                )
    except zlib.error as error:
        raise ValueError(f"it is a damaged DICOM file ({error})") from error


def _parse(data: bytes):
    config.settings.reading_validation_mode = config.IGNORE
    with _refusing("it is a damaged DICOM file ({kind})"):
        # force: some scanners leave the preamble out.
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            is_implicit = dataset.original_encoding[0]
            dataset.file_meta.TransferSyntaxUID = (
                uid.ImplicitVRLittleEndian
                if is_implicit
                else uid.ExplicitVRLittleEndian
            )
        # Elements are decoded when they are first asked for.
        for name in ("MediaStorageSOPClassUID", *_PIXEL_NAMES):
            dataset.file_meta.get(name), dataset.get(name)
    return dataset


def _check_header(dataset) -> None:
    """Raises ValueError unless there is an image of an accepted size."""
    if dataset.file_meta.get("MediaStorageSOPClassUID") == _MEDIA_DIRECTORY:
        raise ValueError(
            "it is a DICOMDIR, the index of a medium, and holds no image"
        )
    if not any(_get(dataset, name) for name in _PIXEL_NAMES):
        raise ValueError(
            "it is a DICOM file without pixel data: a report, a plan, or cut "
            "off before its pixels"
        )
    _check_kind(dataset)
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    samples = _whole(dataset, "SamplesPerPixel", 1)
    bits = _whole(dataset, "BitsAllocated")
    num_frames = _whole(dataset, "NumberOfFrames", 1)
    check_size(columns, rows)
    item_bytes = -(-bits // 8) * samples
    check_volume((rows, columns, num_frames), item_bytes)
    check_number(num_frames)
    photometric = _get(dataset, "PhotometricInterpretation")
    one_sample = (*_GREY, "PALETTE COLOR")
    expected = 1 if photometric in one_sample else 3
    if photometric not in (*one_sample, *_COLOR) or samples != expected:
        raise ValueError(
            f"of DICOM files, {', '.join(_GREY)} and PALETTE COLOR with one "
            f"sample per pixel and {', '.join(_COLOR)} with three are read; it "
            f"has {samples} and another PhotometricInterpretation"
        )


def _check_kind(dataset) -> None:
    """Raises NoImageError if the pixels are not those of an examination."""
    kind = _NO_IMAGES.get(str(_get(dataset, "SOPClassUID")))
    image_type = str(_get(dataset, "ImageType") or "").upper()
    for name, pattern in _NO_IMAGE_TYPES.items():
        if not kind and pattern.search(image_type):
            kind = name
    if kind:
        raise NoImageError(f"it is a DICOM file of {kind}")


def _get(dataset, name: str):
    with _refusing(f"its DICOM header has a wrong {name}"):
        return dataset.get(name)


def _whole(dataset, name: str, default: int | None = None) -> int:
    value = _get(dataset, name)
    try:
        number = default if value in (None, "", 0) else int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its DICOM header has a wrong {name}") from error
    if number is None:
        raise ValueError(f"it is a DICOM file without {name}")
    if number < 1:
        raise ValueError(f"its DICOM header has a wrong {name}")
    return number


def _check_syntax(dataset) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    name = _syntax_name(dataset)
    try:
        is_available = pixels.get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise ValueError(
            f"its transfer syntax ({name}) is not read; convert it to Explicit "
            "VR Little Endian"
        ) from error
    if not is_available:
        raise ValueError(
            f"its transfer syntax ({name}) needs `pip install "
            "lightbox[medical]` to be read"
        )
    if not syntax.is_encapsulated:
        _check_length(dataset)
        return
    with _refusing(
        f"its DICOM pixel data ({name}) cannot be decoded; it is damaged or "
        "cut off"
    ):
        frames = encaps.generate_frames(
            dataset.PixelData,
            number_of_frames=_whole(dataset, "NumberOfFrames", 1),
        )
        sizes = [_compressed_size(frame) for frame in frames]
    for size in sizes:
        if size is not None:
            check_size(*size)


def _check_length(dataset) -> None:
    with _refusing("its DICOM header does not describe its pixels ({kind})"):
        expected = utils.get_expected_length(dataset)
    received = next(
        len(dataset[name].value) for name in _PIXEL_NAMES if name in dataset
    )
    if received < expected:
        raise ValueError(
            f"its DICOM pixel data cannot be decoded: it is cut off after "
            f"{received:,} of {expected:,} bytes"
        )


def _syntax_name(dataset) -> str:
    syntax = dataset.file_meta.TransferSyntaxUID
    # The name of an unknown one is itself, which may be anything.
    return "a private one" if syntax.name == str(syntax) else syntax.name


def _compressed_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in a JPEG, JPEG-LS or JPEG 2000 stream, else None.

    They may be others than those of the DICOM header, and decoders believe
    them.
    """
    start = frame.find(b"\xff\x4f\xff\x51", 0, 512)
    if start >= 0:  # SOC and SIZ of JPEG 2000
        right, bottom, left, top = np.frombuffer(
            frame[start + 8 : start + 24].ljust(16, b"\0"), ">u4"
        ).tolist()
        return max(right - left, 0), max(bottom - top, 0)
    position = 2
    while frame[:2] == b"\xff\xd8" and position + 9 <= len(frame):
        marker = frame[position + 1]
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if is_frame or marker == 0xF7:  # SOF of JPEG and of JPEG-LS
            height, width = np.frombuffer(
                frame[position + 5 : position + 9], ">u2"
            ).tolist()
            return width, height
        if marker == 0xFF:
            position += 1
        else:
            length = frame[position + 2 : position + 4]
            position += 2 + int.from_bytes(length, "big")
    return None


def _decode(dataset) -> np.ndarray:
    """Stored values `[frame, row, column]`, or uint `[..., 3]` of colours."""
    with _refusing(
        f"its DICOM pixel data ({_syntax_name(dataset)}) cannot be decoded; it "
        "is damaged, cut off, or not what its header says"
    ):
        # pylibjpeg's decoder, in Rust, panics on damaged runs.
        is_rle = dataset.file_meta.TransferSyntaxUID == uid.RLELossless
        plugin = "pydicom" if is_rle else ""
        # Old files may hold their bits above others; pydicom would take the
        # lowest ones.
        shift = dicom_values.unused_low_bits(dataset)
        if shift:
            dataset.BitsStored += shift
        values = pixels.pixel_array(dataset, decoding_plugin=plugin)
        if shift:
            dataset.BitsStored -= shift
            values = values >> shift
        # A single frame may come with or without its axis.
        rank = 2 if _whole(dataset, "SamplesPerPixel", 1) == 1 else 3
        return values.reshape(-1, *values.shape[values.ndim - rank :])


def _convert(
    dataset, frames: np.ndarray, window: Window | None, num_bytes: int
) -> list[Image]:
    """Maps stored values to uint8, frame by frame."""
    is_grey = dataset.PhotometricInterpretation in _GREY
    if is_grey and window is None:
        default_window = dicom_values.default_window(dataset, frames)
    images, identifiers = [], dicom_header.list_texts(dataset)
    for index, frame in enumerate(frames):
        if not is_grey:
            shown = dicom_values.to_color(dataset, frame)
        elif window is not None:
            values = dicom_values.to_modality_values(dataset, frame, index)
            shown = apply_window(values, window)
        else:
            shown = dicom_values.to_grey(dataset, frame, index, default_window)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            shown = 255 - shown
        images.append(
            Image(
                reduce_channels(shown),
                source_format="dicom",
                bit_depth=int(
                    dataset.get("BitsStored") or dataset.BitsAllocated
                ),
                num_bytes=num_bytes // len(frames),
                suffix=f"#{index}" if len(frames) > 1 else "",
                patient_id=dicom_header.patient_id(dataset),
                uids=dicom_header.uids(dataset),
                identifiers=identifiers,
            )
        )
    return images
