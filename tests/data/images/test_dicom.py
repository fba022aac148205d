"""DICOM against pydicom's own pipeline."""

import itertools
import pathlib

import numpy as np
import pytest
from absl import logging

from tests.data.builders import (
    gradient,
    make_dicom,
    read_one,
)
from tests.samples import SHARED
from trainer.data.images import readers
from trainer.data.images.image import NoImageError

pydicom = pytest.importorskip("pydicom")

from pydicom import pixels, uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

# What comes with pydicom itself, without its downloads.
SAMPLES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
DICOM = SHARED / "data" / "dicom"
GREY = ("MONOCHROME1", "MONOCHROME2")


def read(*parts) -> list[readers.Image]:
    return readers.read_images(str(pathlib.Path(*parts)))


def shown(values, **elements) -> np.ndarray:
    """Pixels of a DICOM file of these values and elements."""
    return read_one(make_dicom(values, **elements)).pixels


def assert_shown(expected, values, **elements):
    np.testing.assert_allclose(
        shown(values, **elements), np.clip(expected, 0, 255), atol=0.51
    )


def through(values, center, width) -> np.ndarray:
    """Values through a window, by DICOM PS3.3 C.11.2.1.2.1."""
    return ((values - (center - 0.5)) / (width - 1) + 0.5) * 255


def expected_grey(dataset, index=0):
    """A frame as pydicom maps it, scaled to [0, 255]."""
    values = pixels.pixel_array(dataset, index=index)
    units = pixels.apply_modality_lut(values, dataset)
    levels = pixels.apply_voi_lut(units, dataset).astype(float)
    bits = int(dataset.BitsStored)
    bounds = np.array([0, 2**bits - 1])
    if dataset.PixelRepresentation:
        bounds = bounds - 2 ** (bits - 1)
    slope = float(dataset.get("RescaleSlope") or 1)
    low, high = bounds * slope + float(dataset.get("RescaleIntercept") or 0)
    grey = (levels - low) / (high - low) * 255
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 255 - grey
    return grey


def sample_files():
    return sorted(path for f in (SAMPLES, DICOM) for path in f.glob("*.dcm"))


@pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.name)
def test_sample_has_the_pixels_of_pydicom_or_is_refused(path):
    dataset = pydicom.dcmread(path, force=True)
    if path.name.startswith(("rtdose", "liver")):
        with pytest.raises(NoImageError, match=r"a dose|a segmentation"):
            read(path)
        return
    try:
        stored = pixels.pixel_array(dataset)
    except Exception:
        with pytest.raises(ValueError, match=r"DICOM|not an image|pixels"):
            read(path)
        return
    images = read(path)
    assert len(images) == int(dataset.get("NumberOfFrames") or 1)
    photometric = dataset.PhotometricInterpretation
    for index, image in enumerate(images[:3]):
        if photometric in GREY and dataset.get("WindowWidth"):
            expected = expected_grey(dataset, index)
        elif photometric not in (*GREY, "PALETTE COLOR"):
            frame = stored if len(images) == 1 else stored[index]
            top = 2 ** int(dataset.BitsStored) - 1
            expected = np.squeeze(frame / top * 255)
        else:
            continue
        np.testing.assert_allclose(image.pixels, expected, atol=0.51)


TWINS = [
    *(
        ("MR_small.dcm", f"MR_small_{name}.dcm")
        for name in ("implicit", "bigendian", "padded")
        + ("RLE", "jp2klossless", "jpeg_ls_lossless")
    ),
    ("SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_rle_16bit.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_rle_32bit.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_gdcm_KY.dcm"),
    ("693_UNCR.dcm", "693_J2KR.dcm"),
]


@pytest.mark.parametrize(("first", "second"), TWINS)
def test_twins_in_other_transfer_syntaxes_have_equal_pixels(first, second):
    known = {path.name: path for path in sample_files()}
    if not {first, second} <= set(known):
        pytest.skip("the samples are not here")
    pairs = itertools.zip_longest(read(known[first]), read(known[second]))
    for image, twin in pairs:
        np.testing.assert_array_equal(image.pixels, twin.pixels)


@pytest.mark.skipif(not DICOM.exists(), reason="the samples are not here")
def test_samples_are_shown_as_the_standard_says():
    path = DICOM / "693_UNCR.dcm"
    units = pydicom.dcmread(path).pixel_array.astype(float) - 1024
    expected = np.clip(through(units, 40, 100), 0, 255)
    np.testing.assert_allclose(read(path)[0].pixels, expected, atol=0.51)
    inverted = DICOM / "RG3_J2KR.dcm"
    stored = pydicom.dcmread(inverted).pixel_array
    grey = read(inverted)[0].pixels
    assert grey[stored == stored.min()].min() > 250
    assert grey[stored == stored.max()].max() < 10
    frames = read(DICOM, "emri_small.dcm")
    assert [f.suffix for f in frames] == [f"#{i}" for i in range(10)]
    (palette,) = read(DICOM, "examples_palette.dcm")
    assert palette.pixels.shape == (350, 800, 3)
    (overlays,) = read(DICOM, "MR-SIEMENS-DICOM-WithOverlays.dcm")
    assert overlays.pixels.shape == (484, 484)
    with pytest.raises(ValueError, match="cannot be decoded"):
        read(DICOM, "MR_truncated.dcm")


def ct(dtype=np.int16) -> np.ndarray:
    return (np.arange(24 * 32).reshape(24, 32) * 5 - 1000).astype(dtype)


def window(**elements):
    return {"WindowCenter": 300, "WindowWidth": 1500, **elements}


def test_8_bit_file_without_window_keeps_its_values():
    image = read_one(make_dicom(gradient()))
    np.testing.assert_array_equal(image.pixels, gradient())
    assert image.patient_id == "PAT-SECRET-1"
    assert "SECRET" not in repr(image).upper()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", GREY)
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32])
def test_window_functions_equal_those_of_pydicom(
    tmp_path, function, photometric, dtype
):
    values = ct() + 1000 if dtype == np.uint16 else ct()
    data = make_dicom(
        values.astype(dtype),
        VOILUTFunction=function,
        PhotometricInterpretation=photometric,
        RescaleSlope="0.5",
        RescaleIntercept="-20",
        **window(),
    )
    (tmp_path / "x.dcm").write_bytes(data)
    expected = expected_grey(pydicom.dcmread(tmp_path / "x.dcm"))
    np.testing.assert_allclose(read_one(data).pixels, expected, atol=0.51)


def test_first_of_several_windows_counts():
    several = window(WindowCenter=[300, 0], WindowWidth=[1500, 10])
    np.testing.assert_array_equal(
        shown(ct(), **several), shown(ct(), **window())
    )


@pytest.mark.parametrize(
    ("center", "width", "grey"),
    [("0.5", 1, 255), ("1", 1, 255), ("1.5", 2, 128)],
)
def test_window_of_one_step_is_a_threshold(center, width, grey):
    mask = (gradient() > 50).astype(np.uint8)
    narrow = window(WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(shown(mask, **narrow), mask * grey)


@pytest.mark.parametrize("slope", ["", "0.001", "0.000002"])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_narrow_window_of_fractions_is_exact(slope, share):
    """SUV, FA and ADC maps are fractions, as stored or after rescaling."""
    values = gradient().astype(np.uint16) * 4
    units = values * float(slope or 0.001)
    width = share * units.max()
    elements = {"WindowCenter": width / 2, "WindowWidth": f"{width:.9g}"}
    if slope:
        elements["RescaleSlope"] = slope
    else:
        elements["FloatPixelData"] = units.astype(np.float32).tobytes()
        elements["without"] = ["PixelData", "BitsStored", "HighBit"]
        elements["without"].append("PixelRepresentation")
        values = units.astype(np.float32)
    assert_shown(units / width * 255, values, **elements)


def test_window_of_another_unit_is_as_none(caplog):
    values = gradient().astype(np.uint16) * 4
    slope = {"RescaleSlope": "0.000002"}
    logging.set_verbosity(logging.WARNING)
    grey = shown(values, **slope, WindowCenter="0.5", WindowWidth="1")
    np.testing.assert_array_equal(grey, shown(values, **slope))
    assert "replaced by robust percentiles" in caplog.text
    few = (values > 200).astype(np.uint16)
    half = {"RescaleSlope": "0.5", "WindowCenter": "0.5", "WindowWidth": "1"}
    assert_shown(few * 127.5, few, **half)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WindowWidth", value) for value in (0, -5, "nan")),
        *(("WindowCenter", value) for value in ("", [])),
    ],
)
def test_impossible_window_is_as_none(name, value):
    pixels_shown = shown(ct(), **window(**{name: value}))
    np.testing.assert_array_equal(pixels_shown, shown(ct()))


def lut_item(bits, entries):
    item = Dataset()
    item.LUTDescriptor = [len(entries), 0, bits]
    item.LUTData = np.asarray(entries).astype("<u2").tobytes()
    return Sequence([item])


def test_voi_and_modality_luts_are_applied():
    values = gradient().astype(np.uint16) * 3
    modality = np.linspace(4000, 100, 800).astype(int)
    voi = (np.linspace(0, 1, 4096) ** 2 * 1023).astype(int)
    assert_shown(
        voi[modality[values]] / 1023 * 255,
        values,
        ModalityLUTSequence=lut_item(16, modality),
        VOILUTSequence=lut_item(10, voi),
        **window(),
    )


@pytest.mark.parametrize("where", ["PerFrame", "Shared"])
def test_functional_groups_set_window_and_rescale_of_each_frame(where):
    frames = np.stack([ct(), ct() // 2])
    settings = [(2.0, -10.0, 100, 900), (0.5, 30.0, 50, 300)]
    if where == "Shared":
        settings = settings[:1]
    groups = []
    for slope, intercept, center, width in settings:
        group, scale, view = Dataset(), Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = str(slope), str(intercept)
        view.WindowCenter, view.WindowWidth = center, width
        group.PixelValueTransformationSequence = Sequence([scale])
        group.FrameVOILUTSequence = Sequence([view])
        groups.append(group)
    elements = {f"{where}FunctionalGroupsSequence": Sequence(groups)}
    images = readers.decode_images(
        make_dicom(frames, NumberOfFrames=2, **elements, **window())
    )
    for index, (image, frame) in enumerate(zip(images, frames, strict=True)):
        slope, intercept, center, width = settings[index % len(settings)]
        expected = through(frame * slope + intercept, center, width)
        expected = np.clip(expected, 0, 255)
        np.testing.assert_allclose(image.pixels, expected, atol=0.51)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)],
)
def test_float_pixels_with_nan_are_windowed(name, dtype):
    values = ct(dtype) / 1000
    values[0, 0] = np.nan
    integers = ("PixelData", "BitsStored", "HighBit", "PixelRepresentation")
    data = make_dicom(
        values, without=integers, **{name: values.astype(dtype).tobytes()}
    )
    image = read_one(data)
    assert image.bit_depth == 8 * values.itemsize and image.pixels[0, 0] == 0
    assert image.pixels[-1, -1] == 255 and image.pixels[0, 2] == 0


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_bits_above_the_value_are_masked(dtype):
    """Old files hold overlays there, and negative numbers without a sign."""
    values = ct() // 2 if dtype == np.int16 else (ct() + 1000) % 4096
    stored = (values.astype(np.uint16) & 0x0FFF) | 0x5000
    bits = window(WindowWidth=4001, BitsStored=12, HighBit=11)
    assert_shown(through(values, 300, 4001), stored.astype(dtype), **bits)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_bits_below_the_value_are_dropped(dtype):
    values = ct() if dtype == np.int16 else (ct() + 1000) % 4096
    stored = (values.astype(np.int32) << 4 | 0xF).astype(dtype)
    bits = window(WindowWidth=4001, BitsStored=12, HighBit=15)
    # Twelve bits of the stored ones are left: negative ones wrap alike.
    values = stored.astype(np.int32) >> 4
    assert_shown(through(values, 300, 4001), stored, **bits)


@pytest.mark.parametrize("limit", [{}, {"PixelPaddingRangeLimit": -1900}])
@pytest.mark.parametrize("sign", [-1, 1])
def test_padding_does_not_set_the_window(limit, sign):
    values = ct() % 1000 + 3000
    values[:8] = -2000
    if limit:
        values[:8] = np.linspace(-2000, -1900, 8 * 32).reshape(8, 32)
    data = make_dicom(values.astype(np.int16), PixelPaddingValue=-2000, **limit)
    if sign > 0:  # as unsigned words
        data = data.replace(b"\x28\0\x20\1SS", b"\x28\0\x20\1US")
        data = data.replace(b"\x28\0\x21\1SS", b"\x28\0\x21\1US")
    grey = read_one(data).pixels
    assert grey[:8].max() == 0
    assert grey[8:].min() == 0 and grey[8:].max() == 255
    assert np.median(grey[8:]) > 100


def palette(data_name, tables):
    """Elements of a palette whose tables are those of red, green and blue."""
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        prefix = f"{name}PaletteColorLookupTable"
        elements[prefix + "Descriptor"] = [256, 0, 16]
        elements[data_name.format(prefix)] = table.tobytes()
    return elements


@pytest.mark.parametrize("top", [255, 65_535])
@pytest.mark.parametrize(
    ("order", "syntax"), [("<", ""), (">", uid.ExplicitVRBigEndian)]
)
def test_palette_of_16_bits_is_scaled(top, order, syntax):
    entries = np.linspace(0, top, 256).astype(np.uint16)
    scales = np.array([1, 0.5, 0.25])
    expected = np.floor(entries[gradient()][..., None] * scales) / top * 255
    tables = [(entries * scale).astype(order + "u2") for scale in scales]
    elements = palette("{}Data", tables)
    assert_shown(expected, gradient(), syntax=syntax, **elements)


def test_segmented_palette_is_unfolded():
    # One discrete segment (0), then linear to 65,535 over 255 entries.
    segments = np.array([0, 1, 0, 1, 255, 65_535], "<u2")
    grey = shown(gradient(), **palette("Segmented{}Data", [segments] * 3))
    np.testing.assert_allclose(grey, gradient(), atol=1)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_planar_configuration_and_ybr(planar, photometric):
    grey = gradient()
    stored = expected = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    if photometric == "YBR_FULL":
        stored = pixels.convert_color_space(stored, "RGB", "YBR_FULL")
        expected = pixels.convert_color_space(stored, "YBR_FULL", "RGB")
    data = np.moveaxis(stored, -1, 0) if planar else stored
    colours = shown(
        grey,
        SamplesPerPixel=3,
        PlanarConfiguration=planar,
        PhotometricInterpretation=photometric,
        PixelData=np.ascontiguousarray(data).tobytes(),
    )
    np.testing.assert_array_equal(colours, expected)


def test_missing_preamble_and_meta_header_do_not_matter():
    bare = make_dicom(gradient())[132:]
    np.testing.assert_array_equal(read_one(bare).pixels, gradient())
