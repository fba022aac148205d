"""NIfTI volumes -> slices as a radiologist sees them.

Version 1 and 2, in one file, as they are or packed with gzip. The voxels stay
as they are stored until a slice is cut, so that a volume takes little more
memory than its file.
"""

import dataclasses
import gzip
import io
import logging
import math
import re
import zlib

import nibabel
import numpy as np
from nibabel import orientations

from trainer.data.images.image import (
    MAX_VOLUME_BYTES,
    NIFTI_VERSIONS,
    Image,
    Window,
    apply_window,
    check_number,
    check_size,
    check_volume,
    find_window,
)

# A slice is empty if fewer of its pixels than this are brighter than the
# darkest twentieth of the window.
_EMPTY_FRACTION = 0.01
_EMPTY_LEVEL = 13
# The window of a volume is found on no more of its voxels than these.
_MAX_SAMPLE = 20_000_000
# Of header extensions, in bytes.
_MAX_TEXT = 65_536
_GZIP = b"\x1f\x8b"
# Version 2 has the longer header.
_MAX_HEADER = 540


def read_images(
    data: bytes, window: Window | None, slice_axis: int
) -> list[Image]:
    """Reads every slice that is not empty; see `readers.read_images`."""
    # nibabel would tell of every oddity of every header.
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    num_bytes = len(data)
    if data[:2] == _GZIP:
        data = _decompress(data)
    volume, slope, intercept = _load(data)
    images = _cut(volume, slope, intercept, window, slice_axis, num_bytes)
    texts = _list_texts(data)
    return [dataclasses.replace(image, identifiers=texts) for image in images]


def _read_header(start: bytes):
    """The nibabel class for a volume, and its header.

    Raises:
        ValueError: if it is none that can be read.
    """
    is_version_2 = NIFTI_VERSIONS.get(start[:4]) == 2
    kind = nibabel.Nifti2Image if is_version_2 else nibabel.Nifti1Image
    magic = start[4:8] if is_version_2 else start[344:348]
    if magic in (b"ni1\0", b"ni2\0", b"\0\0\0\0"):
        raise ValueError(
            "it is the header of an Analyze or NIfTI pair (.hdr and .img); "
            "convert the pair into one .nii file"
        )
    try:
        header = kind.header_class(start[: kind.header_class.sizeof_hdr])
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    # nibabel promises no set of errors for damaged headers; their text may
    # quote them, so only the kind is passed on.
    except Exception as error:
        raise _damaged(error) from error
    if dtype.kind not in "iufb":
        raise ValueError(
            "its voxels are colours or complex numbers, which are not read"
        )
    if 0 <= header["vox_offset"] < header.single_vox_offset:
        # Some writers leave it 0, and mean: behind the header.
        header["vox_offset"] = header.single_vox_offset
    check_volume(shape, dtype.itemsize)
    if math.prod(shape[4:]) > 1:
        raise ValueError(
            f"it has {len(shape)} axes; volumes of three, or four with time, "
            "are read"
        )
    return kind, header


def _list_texts(data: bytes) -> tuple[str, ...]:
    """What the header and its extensions say, and the words of it."""
    _, header = _read_header(data[:_MAX_HEADER])
    end = min(int(header["vox_offset"]), len(header.binaryblock) + _MAX_TEXT)
    names = ("descrip", "aux_file", "db_name")
    texts = [bytes(header[name]) for name in names if name in set(header)]
    texts.append(data[len(header.binaryblock) : end])
    found = []
    for text in texts:
        for run in re.findall(r"[^\W_][^\0-\x1f]{3,}", text.decode("latin-1")):
            found += [run, *re.findall(r"[^\W_]{4,}", run)]
    return tuple(dict.fromkeys(found))


def _damaged(error: Exception) -> ValueError:
    return ValueError(f"it is a damaged NIfTI file ({type(error).__name__})")


def _decompress(data: bytes) -> bytes:
    """Unpacks as much of a gzip file as its NIfTI header announces."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            start = file.read(_MAX_HEADER)
            if start[:4] not in NIFTI_VERSIONS:
                raise ValueError(
                    "it is a gzip file without a NIfTI volume; unpack it"
                )
            _, header = _read_header(start)
            offset = float(header["vox_offset"])
            # Headers have no more extensions than a few kilobytes of text.
            if not 0 <= offset <= MAX_VOLUME_BYTES / 16:
                raise ValueError("it is a damaged NIfTI file (vox_offset)")
            itemsize = header.get_data_dtype().itemsize
            announced = math.prod(header.get_data_shape()) * itemsize
            # One byte more, so that the checksum at the end is compared.
            rest = int(offset) + announced + 1 - len(start)
            return start + file.read(max(rest, 1))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it is a damaged gzip file ({error})") from error


def _load(data: bytes) -> tuple[np.ndarray, float, float]:
    """Stored voxels, and the slope and intercept that make values of them.

    Returns:
        An array `[right, front, head, time]`, a slope and an intercept. The
        affine matrix says how the volume lies; without one, its first axis
        runs to the left, as in Analyze files.
    """
    kind, header = _read_header(data[:_MAX_HEADER])
    block = header.binaryblock
    if not data.startswith(block):
        data = block + data[len(block) :]
    try:
        image = kind.from_bytes(data)
        axes = orientations.io_orientation(image.affine)
        # Mapped by hand, because nibabel would make float64 of all of it.
        stored = np.asanyarray(image.dataobj.get_unscaled())
        slope, intercept = float(image.dataobj.slope), image.dataobj.inter
    # See `_read_header`.
    except Exception as error:
        raise _damaged(error) from error
    if np.isnan(axes).any():
        raise ValueError("its affine matrix does not say how the volume lies")
    stored = stored.reshape(*stored.shape, *[1] * (3 - stored.ndim))
    volume = orientations.apply_orientation(stored, axes)
    return volume.reshape(*volume.shape[:3], -1), slope, float(intercept)


def _find_window(volume: np.ndarray, slope: float, intercept: float) -> Window:
    step = math.ceil(np.cbrt(volume.size / _MAX_SAMPLE))
    sample = volume[::step, ::step, ::step]
    return find_window(sample * slope + intercept)


def _cut(
    volume: np.ndarray,
    slope: float,
    intercept: float,
    window: Window | None,
    slice_axis: int,
    num_bytes: int,
) -> list[Image]:
    """Slices as they are hung.

    Axial and coronal ones have the patient's right on the left, sagittal ones
    the face on the left; the head, or in axial slices the front, is up.
    """
    window = window or _find_window(volume, slope, intercept)
    upright = {
        0: lambda v, k: v[k, ::-1, ::-1].T,
        1: lambda v, k: v[::-1, k, ::-1].T,
        2: lambda v, k: v[::-1, ::-1, k].T,
    }[slice_axis]
    num_times, num_slices = volume.shape[3], volume.shape[slice_axis]
    check_number(num_times * num_slices)
    images = []
    for time in range(num_times):
        for index in range(num_slices):
            plane = upright(volume[..., time], index)
            check_size(plane.shape[1], plane.shape[0])
            pixels = apply_window(plane * slope + intercept, window)
            bright = np.count_nonzero(pixels >= _EMPTY_LEVEL)
            if bright < _EMPTY_FRACTION * pixels.size:
                continue
            prefix = f"{time}." if num_times > 1 else ""
            images.append(
                Image(
                    np.ascontiguousarray(pixels),
                    source_format="nifti",
                    bit_depth=8 * volume.dtype.itemsize,
                    num_bytes=num_bytes // (num_times * num_slices),
                    suffix=f"#{prefix}{index}",
                )
            )
    if not images:
        raise ValueError("all slices of the NIfTI volume are empty")
    return images
