"""DICOM and NIfTI -> pixels as a radiologist sees them.

pydicom (with pylibjpeg) and nibabel do the decoding and are imported when the
first such file comes: they are the extra `medical`.
"""

import gzip
import io
import math
import warnings
import zlib

import numpy as np

from trainer.data import readers

# A volume of 1,024 x 1,024 x 1,000: larger ones are refused by their header.
MAX_VOXELS = 1_000_000_000
# A slice is empty if fewer of its pixels than this are brighter than the
# darkest twentieth of the window.
_EMPTY_FRACTION = 0.01
_EMPTY_LEVEL = 13
# What anonymizers write instead of a patient id: it names nobody.
_NO_PATIENT = {
    "",
    "0",
    "anon",
    "anonymised",
    "anonymized",
    "anonymous",
    "deidentified",
    "na",
    "none",
    "patient",
    "unknown",
}
_INSTALL = "needs `pip install lightbox[medical]` to be read"


def read_images(
    data: bytes, window: tuple[float, float] | None, slice_axis: int
) -> list[readers.Image]:
    """Reads every frame of a DICOM file or every slice of a NIfTI volume.

    Args:
        data: the file.
        window: (center, width) in units of the file, or None.
        slice_axis: see `readers.read_images`.

    Raises:
        ValueError: if it cannot be read. The message says why.
    """
    if data[:2] == b"\x1f\x8b" or data[:4] in readers.NIFTI_HEADER_SIZES:
        return _read_nifti(data, window, slice_axis)
    return _read_dicom(data, window)


def _read_dicom(
    data: bytes, window: tuple[float, float] | None
) -> list[readers.Image]:
    try:
        import pydicom
        from pydicom import config, pixels
    except ImportError as error:
        raise ValueError(f"a DICOM file {_INSTALL}") from error
    # Warnings quote values of the header, which may name the patient.
    config.settings.reading_validation_mode = config.IGNORE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # force: some scanners leave the preamble out.
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
        # pydicom promises no set of errors for damaged files; their text may
        # quote the header, so only the kind is passed on.
        except Exception as error:
            kind = type(error).__name__
            raise ValueError(f"it is a damaged DICOM file ({kind})") from error
        _check_dicom(dataset)
        try:
            values = pixels.pixel_array(dataset)
            return _convert_frames(dataset, values, window, len(data))
        # The decoders behind it promise none either.
        except Exception as error:
            reason = " ".join(str(error).split())
            for identifier in (_patient_id(dataset), *_identifiers(dataset)):
                if identifier:
                    reason = reason.replace(identifier, "(patient)")
            raise ValueError(
                f"its DICOM pixel data cannot be decoded ({reason[:300]})"
            ) from error


def _guess_syntax(dataset):
    from pydicom import uid

    if not dataset.original_encoding[0]:
        return uid.ExplicitVRLittleEndian
    return uid.ImplicitVRLittleEndian


def _check_dicom(dataset) -> None:
    names = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if not any(name in dataset for name in names):
        raise ValueError("it is a DICOM file without pixel data")
    missing = [n for n in ("Rows", "Columns") if not dataset.get(n)]
    if missing:
        raise ValueError(f"it is a DICOM file without {missing[0]}")
    readers.check_size(int(dataset.Columns), int(dataset.Rows))
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    _check_volume((int(dataset.Rows), int(dataset.Columns), num_frames))


def _check_volume(shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MAX_VOXELS:
        raise ValueError(
            f"{' x '.join(map(str, shape))} voxels are more than the "
            f"{MAX_VOXELS:,} that are accepted; split the volume"
        )


def _convert_frames(
    dataset,
    values: np.ndarray,
    window: tuple[float, float] | None,
    num_bytes: int,
) -> list[readers.Image]:
    """Maps stored values to uint8, frame by frame."""
    is_grey = dataset.PhotometricInterpretation.startswith("MONOCHROME")
    frame_rank = 2 if dataset.get("SamplesPerPixel", 1) == 1 else 3
    # A single frame may come with or without its axis.
    frames = values.reshape(-1, *values.shape[values.ndim - frame_rank :])
    default_window = None
    if is_grey and window is None:
        default_window = _default_window(dataset, frames)
    images = []
    for index, frame in enumerate(frames):
        if is_grey:
            pixels = _convert_grey(
                dataset, frame, index, window, default_window
            )
        else:
            pixels = _convert_color(dataset, frame)
        images.append(
            readers.make_image(
                pixels,
                source_format="dicom",
                bit_depth=int(dataset.get("BitsStored", 8)),
                num_bytes=num_bytes // len(frames),
                suffix=f"#{index}" if len(frames) > 1 else "",
                patient_id=_patient_id(dataset),
                identifiers=_identifiers(dataset),
            )
        )
    return images


def _convert_grey(
    dataset,
    frame: np.ndarray,
    index: int,
    window: tuple[float, float] | None,
    default_window: tuple[float, float],
) -> np.ndarray:
    """One frame through its rescaling, its window or LUT, and its polarity."""
    values = _to_modality_values(dataset, frame, index)
    function = str(_find(dataset, index, "VOILUTFunction") or "LINEAR")
    center = _first(_find(dataset, index, "WindowCenter"))
    width = _first(_find(dataset, index, "WindowWidth"))
    if window is not None:
        grey = readers.apply_window(values, window)
    elif dataset.get("VOILUTSequence"):
        grey = _apply_voi_lut(dataset, values)
    elif center is None or not width:
        grey = readers.apply_window(values, default_window)
    elif function == "SIGMOID":
        # DICOM PS3.3 C.11.2.1.3.1.
        grey = 255 / (1 + np.exp(-4 * (values - center) / width))
        grey = np.rint(grey).astype(np.uint8)
    elif function == "LINEAR_EXACT":
        grey = readers.apply_window(values, (center, width))
    else:
        # DICOM PS3.3 C.11.2.1.2.1: LINEAR counts whole steps.
        exact = (center - 0.5, max(width - 1, 1e-3))
        grey = readers.apply_window(values, exact)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 255 - grey
    return grey


def _find(dataset, index: int, name: str):
    """A value of the file, or of a frame of an enhanced file; else None."""
    if dataset.get(name) is not None:
        return dataset.get(name)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (per_frame[index : index + 1], shared[:1]):
        for group in groups:
            for macro in (
                "FrameVOILUTSequence",
                "PixelValueTransformationSequence",
            ):
                items = group.get(macro) or []
                if items and items[0].get(name) is not None:
                    return items[0].get(name)
    return None


def _first(value) -> float | None:
    """Files may offer several windows: the first is the default."""
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return float(value)
    return float(value[0]) if len(value) else None


def _to_modality_values(dataset, frame: np.ndarray, index: int) -> np.ndarray:
    from pydicom import pixels

    if dataset.get("ModalityLUTSequence"):
        return pixels.apply_modality_lut(frame, dataset).astype(np.float64)
    slope = _first(_find(dataset, index, "RescaleSlope"))
    intercept = _first(_find(dataset, index, "RescaleIntercept"))
    values = frame.astype(np.float64)
    return values * (1.0 if slope is None else slope) + (intercept or 0.0)


def _apply_voi_lut(dataset, values: np.ndarray) -> np.ndarray:
    from pydicom import pixels

    mapped = pixels.apply_voi(np.rint(values).astype(np.int64), dataset)
    bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
    top = 2**bits - 1
    return readers.apply_window(mapped, (top / 2, top))


def _default_window(dataset, frames: np.ndarray) -> tuple[float, float]:
    """The window of a file without one, the same for all of its frames."""
    bits = int(dataset.get("BitsStored", 16))
    rescaled = _to_modality_values(dataset, frames[0], 0)
    unscaled = np.array_equal(rescaled, frames[0])
    if bits <= 8 and unscaled and frames.dtype.kind == "u":
        top = 2**bits - 1
        return top / 2, top
    # Some of many frames tell enough.
    chosen = np.unique(np.linspace(0, len(frames) - 1, 64).astype(int))
    padding = dataset.get("PixelPaddingValue")
    values = []
    for index in chosen:
        converted = _to_modality_values(dataset, frames[index], index)
        # What lies outside of the field of view must not set the window.
        inside = frames[index] != padding
        values.append(converted[inside] if padding is not None else converted)
    return readers.find_window(np.concatenate([v.ravel() for v in values]))


def _convert_color(dataset, frame: np.ndarray) -> np.ndarray:
    """uint8 `[height, width, 3]`; pydicom has made RGB of YBR."""
    from pydicom import pixels

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        frame = pixels.apply_color_lut(frame, dataset)[..., :3]
    if frame.dtype != np.uint8:
        bits = 8 * frame.dtype.itemsize
        if dataset.PhotometricInterpretation != "PALETTE COLOR":
            bits = int(dataset.BitsStored)
        top = 2**bits - 1
        return readers.apply_window(frame, (top / 2, top))
    return frame


def _patient_id(dataset) -> str:
    patient_id = str(dataset.get("PatientID") or "").strip()
    plain = "".join(c for c in patient_id.lower() if c.isalnum())
    return "" if plain in _NO_PATIENT else patient_id


def _identifiers(dataset) -> tuple[str, ...]:
    """What a file name could repeat of the header."""
    found = [str(dataset.get("AccessionNumber") or "")]
    for name in ("PatientName", "PatientBirthName"):
        text = str(dataset.get(name) or "")
        found += text.replace("^", " ").replace("=", " ").split()
    plain = {part: part.lower() for part in found}
    return tuple(p for p in found if plain[p] not in _NO_PATIENT)


def _read_nifti(
    data: bytes, window: tuple[float, float] | None, slice_axis: int
) -> list[readers.Image]:
    try:
        import nibabel
    except ImportError as error:
        raise ValueError(f"a NIfTI file {_INSTALL}") from error
    data_bytes = len(data)
    if data[:2] == b"\x1f\x8b":
        data = _decompress_nifti(data)
    is_nifti2 = data[:4] in readers.NIFTI_HEADER_SIZES[2:]
    kind = nibabel.Nifti2Image if is_nifti2 else nibabel.Nifti1Image
    try:
        image = nibabel.as_closest_canonical(kind.from_bytes(data))
        _check_volume(image.shape)
        volume = np.asanyarray(image.dataobj)
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        OSError,
        EOFError,
        TypeError,
        OverflowError,
        IndexError,
    ) as error:
        kind_of_error = type(error).__name__
        raise ValueError(
            f"it is a damaged NIfTI file ({kind_of_error})"
        ) from error
    return _cut_volume(volume, window, slice_axis, data_bytes)


def _decompress_nifti(data: bytes) -> bytes:
    """Unpacks as much of a gzip file as its NIfTI header announces."""
    import nibabel

    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            start = file.read(540)
            if start[:4] not in readers.NIFTI_HEADER_SIZES:
                raise ValueError("it is a gzip file without a NIfTI volume")
            is_nifti2 = start[:4] in readers.NIFTI_HEADER_SIZES[2:]
            kind = nibabel.Nifti2Header if is_nifti2 else nibabel.Nifti1Header
            size = kind.sizeof_hdr
            header = kind(start[:size], check=False)
            shape = header.get_data_shape()
            _check_volume(shape)
            item_bytes = header.get_data_dtype().itemsize
            announced = (
                int(header["vox_offset"]) + math.prod(shape) * item_bytes
            )
            return start + file.read(max(announced - len(start), 0))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it is a damaged gzip file ({error})") from error
    except (KeyError, nibabel.spatialimages.HeaderDataError) as error:
        raise ValueError("it is a damaged NIfTI file") from error


def _cut_volume(
    volume: np.ndarray,
    window: tuple[float, float] | None,
    slice_axis: int,
    num_bytes: int,
) -> list[readers.Image]:
    """Slices as they are hung: patient's right on the left, head up.

    The volume is in canonical orientation: its axes run to the right, to the
    front and to the head.
    """
    if volume.dtype.kind not in "iufb":
        raise ValueError("it is a NIfTI file of colours, which is not read")
    if volume.ndim < 3:
        volume = volume.reshape(*volume.shape, *[1] * (3 - volume.ndim))
    volume = volume.reshape(*volume.shape[:3], -1)
    if window is None:
        window = readers.find_window(volume)
    upright = {
        0: lambda v, k: v[k, ::-1, ::-1].T,
        1: lambda v, k: v[::-1, k, ::-1].T,
        2: lambda v, k: v[::-1, ::-1, k].T,
    }[slice_axis]
    num_times, num_slices = volume.shape[3], volume.shape[slice_axis]
    images = []
    for time in range(num_times):
        for index in range(num_slices):
            plane = upright(volume[..., time], index)
            readers.check_size(plane.shape[1], plane.shape[0])
            pixels = readers.apply_window(plane, window)
            bright = np.count_nonzero(pixels >= _EMPTY_LEVEL)
            if bright < _EMPTY_FRACTION * pixels.size:
                continue
            prefix = f"{time}." if num_times > 1 else ""
            images.append(
                readers.make_image(
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
