"""Stored values of DICOM frames -> grey levels and colours.

What DICOM PS3.3 C.11 asks for, in its order: rescaling or modality LUT, then
the VOI LUT or window of the frame. Overlays and presentation states are left
out.
"""

import math

import numpy as np
import pydicom
from absl import logging
from pydicom import pixels

from trainer.data.images.image import Window, apply_window, find_window

_MIN_LEVELS = 8
_PALETTE_DATA = "{}PaletteColorLookupTableData"


def unused_low_bits(dataset) -> int:
    """Bits of a stored integer below those that are the value's."""
    is_native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    if not is_native or "PixelData" not in dataset:
        return 0
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    high_bit = dataset.get("HighBit")
    if high_bit is None or not stored <= high_bit < allocated:
        return 0
    return int(high_bit) + 1 - stored


def to_grey(
    dataset, frame: np.ndarray, index: int, fallback: Window
) -> np.ndarray:
    """A frame through its rescaling and its VOI LUT or window, else `fallback`.

    Returns:
        uint8 `[height, width]`, before any inversion.
    """
    values = to_modality_values(dataset, frame, index)
    lut_sequence = _find(dataset, index, "VOILUTSequence")
    if lut_sequence:
        return _apply_voi_lut(dataset, lut_sequence, values)
    function = str(_find(dataset, index, "VOILUTFunction") or "LINEAR")
    center = _first(_find(dataset, index, "WindowCenter"))
    width = _first(_find(dataset, index, "WindowWidth"))
    if center is None or width is None or width <= 0:
        return apply_window(values, fallback)
    if function == "SIGMOID":
        # DICOM PS3.3 C.11.2.1.3.1.
        grey = 255 / (1 + np.exp(-4 * (values - center) / width))
        return np.rint(grey).astype(np.uint8)
    if function == "LINEAR_EXACT":
        return apply_window(values, (center, width))
    # DICOM PS3.3 C.11.2.1.2.1: LINEAR counts whole steps; of one step, it is
    # a threshold. Writers mean no such thing of fractions (SUV, FA, ADC).
    if width < 2 and not np.array_equal(values, np.rint(values)):
        return _show_fractions(values, (center, width), fallback)
    if width <= 1:
        return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
    return apply_window(values, (center - 0.5, width - 1))


def _show_fractions(
    values: np.ndarray, window: Window, fallback: Window
) -> np.ndarray:
    """Through the window, unless it was made for values of another unit."""
    grey = apply_window(values, window)
    num_levels = min(_MIN_LEVELS, np.unique(values).size)
    if np.unique(grey).size >= num_levels:
        return grey
    logging.log_first_n(
        logging.WARNING,
        "Windows of DICOM files that leave fractions fewer than %d grey levels "
        "are replaced by robust percentiles; --window_center and "
        "--window_width set another.",
        1,
        _MIN_LEVELS,
    )
    return apply_window(values, fallback)


def to_modality_values(dataset, frame: np.ndarray, index: int) -> np.ndarray:
    """Values in the units of the modality, float64."""
    if dataset.get("ModalityLUTSequence"):
        return pixels.apply_modality_lut(frame, dataset).astype(np.float64)
    slope = _first(_find(dataset, index, "RescaleSlope"))
    intercept = _first(_find(dataset, index, "RescaleIntercept"))
    # A slope of 0 would wipe the image out: other viewers ignore it too.
    return frame.astype(np.float64) * (slope or 1.0) + (intercept or 0.0)


def default_window(dataset, frames: np.ndarray) -> Window:
    """The window of a file without one, the same for all of its frames."""
    bits = int(dataset.get("BitsStored") or 32)
    rescaled = to_modality_values(dataset, frames[0], 0)
    unscaled = np.array_equal(rescaled, frames[0])
    if bits <= 8 and unscaled and frames.dtype.kind == "u":
        top = 2**bits - 1
        return top / 2, top
    # Some of many frames tell enough.
    chosen = np.unique(np.linspace(0, len(frames) - 1, 64).astype(int))
    values = []
    for index in chosen:
        converted = to_modality_values(dataset, frames[index], index)
        values.append(converted[~_is_padding(dataset, frames[index])])
    return find_window(np.concatenate(values))


def _is_padding(dataset, frame: np.ndarray) -> np.ndarray:
    """Where a frame lies outside of the field of view; that sets no window."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(frame.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit")
    last = first if last is None else last
    if frame.dtype.kind in "iu":
        # Some writers give them the other sign: the same bits are meant.
        first, last = np.array([first, last], np.int64).astype(frame.dtype)
    return (frame >= min(first, last)) & (frame <= max(first, last))


def _find(dataset, index: int, name: str):
    """A value of a frame, of all frames, or of the file; else None."""
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
    return dataset.get(name)


def _first(value) -> float | None:
    """Files may offer several windows: the first is the default."""
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float):
        value = value[0] if len(value) else None
    if value is None or not math.isfinite(float(value)):
        return None
    return float(value)


def _apply_voi_lut(dataset, lut_sequence, values: np.ndarray) -> np.ndarray:
    holder = pydicom.Dataset()
    # It says in which byte order the table is.
    holder.file_meta = dataset.file_meta
    holder.VOILUTSequence = lut_sequence
    mapped = pixels.apply_voi(np.rint(values).astype(np.int64), holder)
    bits = int(lut_sequence[0].LUTDescriptor[2])
    top = 2**bits - 1
    return apply_window(mapped, (top / 2, top))


def to_color(dataset, frame: np.ndarray) -> np.ndarray:
    """uint8 `[height, width, 3]`; pydicom has made RGB of YBR."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _apply_palette(dataset, frame)
    if frame.dtype == np.uint8:
        return frame
    top = 2 ** int(dataset.BitsStored) - 1
    return apply_window(frame, (top / 2, top))


def _apply_palette(dataset, frame: np.ndarray) -> np.ndarray:
    num_entries, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    num_entries = num_entries or 2**16
    is_plain = _PALETTE_DATA.format("Red") in dataset
    syntax = dataset.file_meta.TransferSyntaxUID
    if is_plain and not syntax.is_little_endian:
        dataset = _swap_palette(dataset)
    entries = np.arange(first, first + num_entries)
    table = pixels.apply_color_lut(entries, dataset)[..., :3]
    # Some writers put values of 8 bits into tables of 16.
    top = 255 if table.max() < 256 else 65_535
    table = apply_window(table, (top / 2, top))
    places = np.clip(frame.astype(np.int64) - first, 0, num_entries - 1)
    return table[places]


def _swap_palette(dataset):
    """A copy of the tables in the byte order that pydicom takes them for."""
    copy = pydicom.Dataset()
    for color in ("Red", "Green", "Blue"):
        descriptor = f"{color}PaletteColorLookupTableDescriptor"
        setattr(copy, descriptor, list(dataset[descriptor].value))
        name = _PALETTE_DATA.format(color)
        words = np.frombuffer(dataset[name].value, ">u2")
        setattr(copy, name, words.astype("<u2").tobytes())
    return copy
