"""DICOM and NIfTI against pydicom's own pipeline, nibabel, and bad headers."""

import gzip
import itertools
import os
import pathlib
import time
import tracemalloc
import zlib

import numpy as np
import pytest

from tests.conftest import SHARED
from tests.data.builders import gradient, read_one, write_dicom, write_nifti
from trainer.data.images import readers

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

from pydicom import encaps, pixels, uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

# What comes with pydicom itself, without its downloads.
SAMPLES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
DICOM = SHARED / "data" / "dicom"
GREY = ("MONOCHROME1", "MONOCHROME2")
SECRET = "PAT-SECRET"


def sample_files():
    folders = [folder for folder in (SAMPLES, DICOM) if folder.exists()]
    return sorted(path for f in folders for path in f.glob("*.dcm"))


def expected_grey(dataset, index):
    """A frame as pydicom maps it, scaled to [0, 255]."""
    values = pixels.pixel_array(dataset, index=index)
    units = pixels.apply_modality_lut(values, dataset)
    shown = pixels.apply_voi_lut(units, dataset).astype(float)
    bits = int(dataset.BitsStored)
    bounds = np.array([0, 2**bits - 1])
    if dataset.PixelRepresentation:
        bounds = bounds - 2 ** (bits - 1)
    slope = float(dataset.get("RescaleSlope") or 1)
    low, high = bounds * slope + float(dataset.get("RescaleIntercept") or 0)
    grey = (shown - low) / (high - low) * 255
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 255 - grey
    return grey


@pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.name)
def test_sample_has_the_pixels_of_pydicom_or_is_refused(path):
    dataset = pydicom.dcmread(path, force=True)
    try:
        expected = pixels.pixel_array(dataset)
    except Exception:
        with pytest.raises(ValueError, match=r"DICOM|not an image|pixels"):
            readers.read_images(str(path))
        return
    images = readers.read_images(str(path))
    assert len(images) == int(dataset.get("NumberOfFrames") or 1)
    photometric = dataset.PhotometricInterpretation
    for index, image in enumerate(images[:3]):
        if photometric in GREY and dataset.get("WindowWidth"):
            wanted = expected_grey(dataset, index)
            np.testing.assert_allclose(image.pixels, wanted, atol=0.51)
        elif photometric not in (*GREY, "PALETTE COLOR"):
            frame = expected if len(images) == 1 else expected[index]
            wanted = frame / (2 ** int(dataset.BitsStored) - 1) * 255
            np.testing.assert_allclose(
                image.pixels, np.squeeze(wanted), atol=0.51
            )


TWINS = [
    ("MR_small.dcm", "MR_small_implicit.dcm"),
    ("MR_small.dcm", "MR_small_bigendian.dcm"),
    ("MR_small.dcm", "MR_small_padded.dcm"),
    ("MR_small.dcm", "MR_small_RLE.dcm"),
    ("MR_small.dcm", "MR_small_jp2klossless.dcm"),
    ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    ("rtdose.dcm", "rtdose_expb.dcm"),
    ("rtdose.dcm", "rtdose_rle.dcm"),
    ("liver_1frame.dcm", "liver_expb_1frame.dcm"),
    ("SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_rle_16bit.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_rle_32bit.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    ("SC_rgb_rle.dcm", "SC_rgb_gdcm_KY.dcm"),
]


@pytest.mark.parametrize(("first", "second"), TWINS)
def test_twins_in_other_transfer_syntaxes_have_equal_pixels(first, second):
    if not (SAMPLES / first).exists() or not (SAMPLES / second).exists():
        pytest.skip("this pydicom comes without the sample")
    pairs = itertools.zip_longest(
        readers.read_images(str(SAMPLES / first)),
        readers.read_images(str(SAMPLES / second)),
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one.pixels, other.pixels)


def ct(dtype=np.int16) -> np.ndarray:
    return (np.arange(24 * 32).reshape(24, 32) * 5 - 1000).astype(dtype)


def window(**elements):
    return {"WindowCenter": 300, "WindowWidth": 1500, **elements}


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", GREY)
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32])
def test_window_functions_equal_those_of_pydicom(
    tmp_path, function, photometric, dtype
):
    path = write_dicom(
        tmp_path / "x.dcm",
        ct(dtype) if dtype != np.uint16 else (ct() + 1000).astype(dtype),
        VOILUTFunction=function,
        PhotometricInterpretation=photometric,
        RescaleSlope="0.5",
        RescaleIntercept="-20",
        **window(),
    )
    expected = expected_grey(pydicom.dcmread(path), 0)
    np.testing.assert_allclose(read_one(path).pixels, expected, atol=0.51)


def test_first_of_several_windows_counts(tmp_path):
    several = window(WindowCenter=[300, 0], WindowWidth=[1500, 10])
    many = write_dicom(tmp_path / "many.dcm", ct(), **several)
    one = write_dicom(tmp_path / "one.dcm", ct(), **window())
    np.testing.assert_array_equal(read_one(many).pixels, read_one(one).pixels)


def test_window_of_one_step_is_a_threshold(tmp_path):
    mask = (gradient() > 50).astype(np.uint8)
    path = write_dicom(
        tmp_path / "x.dcm", mask, **window(WindowCenter="0.5", WindowWidth=1)
    )
    np.testing.assert_array_equal(read_one(path).pixels, mask * 255)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowWidth": 0},
        {"WindowWidth": -5},
        {"WindowWidth": "nan"},
        {"WindowCenter": ""},
        {"WindowCenter": []},
    ],
)
def test_impossible_window_is_as_none(tmp_path, elements):
    bad = write_dicom(tmp_path / "bad.dcm", ct(), **window(**elements))
    plain = write_dicom(tmp_path / "plain.dcm", ct())
    np.testing.assert_array_equal(read_one(bad).pixels, read_one(plain).pixels)


def lut_item(bits, entries, first=0):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.asarray(entries).astype("<u2").tobytes()
    return item


def test_voi_and_modality_luts_are_applied(tmp_path):
    values = (gradient().astype(np.uint16)) * 3
    modality = np.linspace(4000, 100, 800).astype(int)
    voi = (np.linspace(0, 1, 4096) ** 2 * 1023).astype(int)
    path = write_dicom(
        tmp_path / "x.dcm",
        values,
        ModalityLUTSequence=Sequence([lut_item(16, modality)]),
        VOILUTSequence=Sequence([lut_item(10, voi)]),
        **window(),
    )
    expected = voi[modality[values]] / 1023 * 255
    np.testing.assert_allclose(read_one(path).pixels, expected, atol=0.51)


@pytest.mark.parametrize("where", ["per_frame", "shared"])
def test_functional_groups_set_window_and_rescale_of_each_frame(
    tmp_path, where
):
    frames = np.stack([ct(), ct() // 2])
    settings = [(2.0, -10.0, 100, 900), (0.5, 30.0, 50, 300)]
    groups = []
    for slope, intercept, center, width in settings:
        group, scale, view = Dataset(), Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = str(slope), str(intercept)
        view.WindowCenter, view.WindowWidth = center, width
        group.PixelValueTransformationSequence = Sequence([scale])
        group.FrameVOILUTSequence = Sequence([view])
        groups.append(group)
    elements = {"PerFrameFunctionalGroupsSequence": Sequence(groups)}
    if where == "shared":
        settings = settings[:1] * 2
        elements = {"SharedFunctionalGroupsSequence": Sequence(groups[:1])}
    path = write_dicom(
        tmp_path / "x.dcm", frames, NumberOfFrames=2, **elements, **window()
    )
    images = readers.read_images(path)
    for image, frame, row in zip(images, frames, settings, strict=True):
        slope, intercept, center, width = row
        units = frame * slope + intercept
        expected = ((units - (center - 0.5)) / (width - 1) + 0.5) * 255
        expected = np.clip(expected, 0, 255)
        np.testing.assert_allclose(image.pixels, expected, atol=0.51)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixels_with_nan_are_windowed(tmp_path, dtype):
    values = ct(dtype) / 1000
    values[0, 0] = np.nan
    path = write_dicom(tmp_path / "x.dcm", ct(np.uint16))
    dataset = pydicom.dcmread(path)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit
    del dataset.PixelRepresentation
    is_single = dtype == np.float32
    name = "FloatPixelData" if is_single else "DoubleFloatPixelData"
    setattr(dataset, name, values.tobytes())
    dataset.BitsAllocated = 8 * values.itemsize
    dataset.save_as(path)
    image = read_one(path)
    assert image.bit_depth == 8 * values.itemsize and image.pixels[0, 0] == 0
    assert image.pixels[-1, -1] == 255 and image.pixels[0, 2] == 0


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_the_value_are_masked(tmp_path, signed):
    """Old files hold overlays there, and negative numbers without a sign."""
    values = ct() // 2 if signed else (ct() + 1000) % 4096
    stored = (values.astype(np.uint16) & 0x0FFF) | 0x5000
    path = write_dicom(
        tmp_path / "x.dcm",
        stored.astype(np.int16 if signed else np.uint16),
        BitsStored=12,
        HighBit=11,
        **window(WindowWidth=4001),
    )
    expected = np.clip((values - 299.5) / 4000 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(read_one(path).pixels, expected, atol=0.51)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_below_the_value_are_dropped(tmp_path, signed):
    values = ct() if signed else (ct() + 1000) % 4096
    stored = (values.astype(np.int32) << 4 | 0xF).astype(
        np.int16 if signed else np.uint16
    )
    path = write_dicom(
        tmp_path / "x.dcm",
        stored,
        BitsStored=12,
        HighBit=15,
        **window(WindowWidth=4001),
    )
    # Twelve bits of the stored ones are left: negative ones wrap alike.
    values = stored.astype(np.int32) >> 4
    expected = np.clip((values - 299.5) / 4000 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(read_one(path).pixels, expected, atol=0.51)


def test_padding_range_does_not_set_the_window(tmp_path):
    values = ct() % 1000 + 3000
    values[:8] = np.linspace(-2000, -1900, 8 * 32).reshape(8, 32)
    path = write_dicom(
        tmp_path / "x.dcm",
        values.astype(np.int16),
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1900,
    )
    shown = read_one(path).pixels
    assert shown[:8].max() == 0
    assert shown[8:].min() == 0 and np.median(shown[8:]) > 100


def palette(entries, bits):
    elements = {}
    for name, scale in (("Red", 1.0), ("Green", 0.5), ("Blue", 0.25)):
        table = (entries * scale).astype(np.uint16)
        prefix = f"{name}PaletteColorLookupTable"
        elements[prefix + "Descriptor"] = [len(table), 0, bits]
        elements[prefix + "Data"] = table.astype("<u2").tobytes()
    return elements


@pytest.mark.parametrize("top", [255, 65_535])
@pytest.mark.parametrize("is_little", [True, False])
def test_palette_of_16_bits_is_scaled(tmp_path, top, is_little):
    index = gradient()
    entries = np.linspace(0, top, 256).astype(np.uint16)
    elements = palette(entries, 16)
    path = write_dicom(
        tmp_path / "x.dcm",
        index,
        PhotometricInterpretation="PALETTE COLOR",
        **elements,
    )
    if not is_little:
        dataset = pydicom.dcmread(path)
        for name, value in elements.items():
            if name.endswith("Data"):
                swapped = np.frombuffer(value, "<u2").astype(">u2")
                setattr(dataset, name, swapped.tobytes())
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False)
    scales = np.array([1, 0.5, 0.25])
    expected = np.floor(entries[index][..., None] * scales) / top * 255
    np.testing.assert_allclose(read_one(path).pixels, expected, atol=0.51)


def test_segmented_palette_is_unfolded(tmp_path):
    # One discrete segment (0), then linear to 65,535 over 255 entries.
    segments = np.array([0, 1, 0, 1, 255, 65_535], "<u2").tobytes()
    elements = {}
    for name in ("Red", "Green", "Blue"):
        prefix = f"{name}PaletteColorLookupTable"
        elements[prefix + "Descriptor"] = [256, 0, 16]
        elements[f"Segmented{prefix}Data"] = segments
    path = write_dicom(
        tmp_path / "x.dcm",
        gradient(),
        PhotometricInterpretation="PALETTE COLOR",
        **elements,
    )
    np.testing.assert_allclose(read_one(path).pixels, gradient(), atol=1)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_planar_configuration_and_ybr(tmp_path, planar, photometric):
    grey = gradient()
    rgb = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    stored = rgb
    if photometric == "YBR_FULL":
        stored = pixels.convert_color_space(rgb, "RGB", "YBR_FULL")
    data = np.moveaxis(stored, -1, 0) if planar else stored
    path = write_dicom(
        tmp_path / "x.dcm",
        grey,
        SamplesPerPixel=3,
        PlanarConfiguration=planar,
        PhotometricInterpretation=photometric,
        PixelData=np.ascontiguousarray(data).tobytes(),
    )
    expected = (
        rgb
        if photometric == "RGB"
        else pixels.convert_color_space(stored, "YBR_FULL", "RGB")
    )
    np.testing.assert_array_equal(read_one(path).pixels, expected)


def test_missing_preamble_and_meta_header_do_not_matter(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", gradient())
    data = pathlib.Path(path).read_bytes()
    plain = read_one(path).pixels
    (tmp_path / "bare.dcm").write_bytes(data[132:])
    np.testing.assert_array_equal(read_one(tmp_path / "bare.dcm").pixels, plain)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 30_000, "Columns": 30_000}, "30000 x 30000 pixels"),
        ({"Rows": 0}, "without Rows"),
        ({"Columns": 0}, "without Columns"),
        ({"NumberOfFrames": 2_000_000_000}, "GiB"),
        ({"NumberOfFrames": 3}, "cut off after 768 of 2,304 bytes"),
        ({"NumberOfFrames": -1}, "wrong NumberOfFrames"),
        ({"BitsAllocated": 0}, "without BitsAllocated"),
        ({"BitsStored": 99}, "DICOM"),
        ({"SamplesPerPixel": 3}, "with three are read"),
        ({"SamplesPerPixel": 4}, "with three are read"),
        ({"PhotometricInterpretation": "HSV"}, "with three are read"),
        ({"PhotometricInterpretation": SECRET}, "with three are read"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "wrong values"),
        ({"PixelData": b""}, "without pixel data"),
        ({"PixelData": b"\0" * 700}, "cut off after 700 of 768"),
    ],
)
def test_bad_dicom_header_is_refused_in_words_of_ours(
    tmp_path, elements, reason
):
    path = write_dicom(tmp_path / "x.dcm", gradient(), **elements)
    with pytest.raises(ValueError, match=reason) as info:
        readers.read_images(path)
    assert "SECRET" not in str(info.value).upper()


@pytest.mark.parametrize(
    "name", ["NumberOfFrames", "WindowCenter", "RescaleSlope", "BitsStored"]
)
def test_text_where_a_number_must_be_is_refused(tmp_path, name):
    path = write_dicom(
        tmp_path / "x.dcm",
        gradient(),
        **window(NumberOfFrames=1, RescaleSlope="1"),
    )
    data = pathlib.Path(path).read_bytes()
    # The text is put where the value of the element is, with its length.
    tag = pydicom.tag.Tag(name)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    at = data.index(head)
    old = int.from_bytes(data[at + 6 : at + 8], "little")
    new = head + b"DS" + len(SECRET).to_bytes(2, "little") + SECRET.encode()
    (tmp_path / "x.dcm").write_bytes(data[:at] + new + data[at + 8 + old :])
    with pytest.raises(ValueError, match="DICOM") as info:
        readers.read_images(path)
    assert SECRET not in str(info.value)


def set_syntax(path, syntax, frames=None):
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    if frames is not None:
        dataset.PixelData = encaps.encapsulate(frames)
        dataset["PixelData"].VR = "OB"
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    return path


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        ("1.2.3.4.5.6", "a private one"),
        (uid.MPEG2MPML, "MPEG2"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
    ],
)
def test_transfer_syntax_that_is_not_read_is_named(tmp_path, syntax, reason):
    path = write_dicom(tmp_path / "x.dcm", gradient())
    with pytest.raises(ValueError, match=f"{reason}.*convert it"):
        readers.read_images(set_syntax(path, syntax, [b"\0" * 100]))


def test_compressed_bomb_with_a_small_header_is_refused(tmp_path):
    size = (30_000).to_bytes(4, "big") * 2
    j2k = b"\xff\x4f\xff\x51\0\x29\0\0" + size + b"\0" * 40
    jpeg = b"\xff\xd8\xff\xe0\0\4ab\xff\xc3\0\x0b\x08" + size[2:4] * 2
    for syntax, frame in (
        (uid.JPEG2000Lossless, j2k),
        (uid.HTJ2KLossless, j2k),
        (uid.JPEGLosslessSV1, jpeg + b"\0" * 9),
        (uid.JPEGLSLossless, jpeg.replace(b"\xc3", b"\xf7") + b"\0" * 9),
    ):
        path = write_dicom(tmp_path / "x.dcm", gradient())
        with pytest.raises(ValueError, match="30000 x 30000"):
            readers.read_images(set_syntax(path, syntax, [frame]))


@pytest.mark.parametrize(
    "syntax",
    [
        uid.JPEGBaseline8Bit,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.HTJ2KLossless,
        uid.RLELossless,
    ],
)
@pytest.mark.parametrize("frame", [b"\0\0", b"\xff\xd8\xff\xd9", b"ab" * 99])
def test_damaged_compressed_pixels_are_refused(tmp_path, syntax, frame):
    path = write_dicom(tmp_path / "x.dcm", gradient())
    with pytest.raises(ValueError, match="decoded"):
        readers.read_images(set_syntax(path, syntax, [frame]))


def test_deflated_bomb_is_refused_without_being_unfolded(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", gradient())
    set_syntax(path, uid.ExplicitVRLittleEndian)
    data = pathlib.Path(path).read_bytes()
    deflated = data.replace(
        b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1
    )
    assert len(deflated) == len(data) + 2
    start = 144 + int.from_bytes(data[140:144], "little")
    deflated = bytearray(deflated)
    length = deflated.index(b"1.2.840.10008.1.2.1.99") - 2
    deflated[length : length + 2] = (22).to_bytes(2, "little")
    deflated[140:144] = (start - 144 + 2).to_bytes(4, "little")
    packer = zlib.compressobj(9, wbits=-15)
    meta, rest = bytes(deflated[: start + 2]), bytes(deflated[start + 2 :])
    whole = packer.compress(rest) + packer.flush()
    (tmp_path / "good.dcm").write_bytes(meta + whole)
    np.testing.assert_array_equal(
        read_one(tmp_path / "good.dcm").pixels, gradient()
    )
    packer = zlib.compressobj(9, wbits=-15)
    block = b"\0" * 2**22
    bomb = b"".join(packer.compress(block) for _ in range(300))
    (tmp_path / "bomb.dcm").write_bytes(meta + bomb + packer.flush())
    with pytest.raises(ValueError, match="unfolds into more than"):
        readers.read_images(str(tmp_path / "bomb.dcm"))
    (tmp_path / "cut.dcm").write_bytes(meta + whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged DICOM"):
        readers.read_images(str(tmp_path / "cut.dcm"))


def test_every_cut_of_a_dicom_file_is_refused_without_names(tmp_path, capfd):
    path = write_dicom(tmp_path / "x.dcm", gradient(), **window())
    data = pathlib.Path(path).read_bytes()
    for end in range(0, len(data) - 1, 37):
        (tmp_path / "cut.dcm").write_bytes(data[:end])
        with pytest.raises(ValueError) as info:
            readers.read_images(str(tmp_path / "cut.dcm"))
        assert "secret" not in str(info.value).lower()
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_flipped_bits_never_escape_as_another_error(tmp_path, capfd):
    generator = np.random.default_rng(0)
    for name in ("MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"):
        if not (SAMPLES / name).exists():
            continue
        data = (SAMPLES / name).read_bytes()
        for _ in range(150):
            damaged = bytearray(data)
            for place in generator.integers(132, len(data), 3):
                damaged[place] ^= 1 << generator.integers(8)
            (tmp_path / "x.dcm").write_bytes(damaged)
            try:
                readers.read_images(str(tmp_path / "x.dcm"))
            except ValueError as error:
                assert "CompressedSamples" not in str(error)
    assert "CompressedSamples" not in capfd.readouterr().err


def make_volume() -> np.ndarray:
    """Values that tell every corner: right, front and head are bright."""
    right, front, head = np.mgrid[:5, :6, :7]
    return (100 + right + 10 * front + 100 * head).astype(np.float32)


ALL_CODES = [
    "".join(code)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for code in itertools.product(*axes)
]


@pytest.mark.parametrize("code", ALL_CODES)
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_all_48_orientations_give_the_same_slices(tmp_path, code, slice_axis):
    from nibabel import orientations

    volume = make_volume()
    canonical = nibabel.Nifti1Image(volume, np.eye(4))
    turn = orientations.ornt_transform(
        orientations.io_orientation(np.eye(4)),
        orientations.axcodes2ornt(tuple(code)),
    )
    path = str(tmp_path / "x.nii")
    nibabel.save(canonical.as_reoriented(turn), path)
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == code
    images = readers.read_images(
        path, window_center=450, window_width=900, slice_axis=slice_axis
    )
    for image in images:
        index = int(image.suffix[1:])
        plane = volume.take(index, axis=slice_axis)
        # Rows run down from the head or the front, columns to the patient's
        # left, or from the face to the back.
        plane = plane[::-1, ::-1].T
        expected = np.clip(plane / 900 * 255, 0, 255)
        np.testing.assert_allclose(image.pixels, expected, atol=0.51)
    assert len(images) == volume.shape[slice_axis]


NIFTI_TYPES = [
    np.uint8,
    np.int8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.uint64,
    np.float32,
    np.float64,
]


@pytest.mark.parametrize("dtype", NIFTI_TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_number_type_byte_order_and_version(
    tmp_path, dtype, order, version
):
    volume = (make_volume() // 9).astype(np.dtype(dtype).newbyteorder(order))
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    header = kind.header_class(endianness=order)
    header.set_data_dtype(volume.dtype)
    image = kind(volume, np.eye(4), header)
    image.header.set_slope_inter(2.0, -5.0)
    raw = image.to_bytes()
    for name, data in (("x.nii", raw), ("x.nii.gz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(data)
        images = readers.read_images(
            str(tmp_path / name), window_center=80, window_width=160
        )
        stored = (
            nibabel.Nifti1Image.from_bytes(raw)
            if version == 1
            else (nibabel.Nifti2Image.from_bytes(raw))
        )
        values = stored.get_fdata()[::-1, ::-1, 4].T
        expected = np.clip(values / 160 * 255, 0, 255)
        by_suffix = {image.suffix: image.pixels for image in images}
        np.testing.assert_allclose(by_suffix["#4"], expected, atol=0.51)


def test_nifti_slope_makes_the_values(tmp_path):
    volume = make_volume().astype(np.int16)
    image = nibabel.Nifti1Image(volume, np.eye(4))
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array([0.5, 7], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "x.nii").write_bytes(raw)
    images = readers.read_images(
        str(tmp_path / "x.nii"), window_center=200, window_width=400
    )
    expected = (volume[::-1, ::-1, 6].T * 0.5 + 7) / 400 * 255
    np.testing.assert_allclose(
        images[-1].pixels, np.clip(expected, 0, 255), atol=0.51
    )


def test_time_and_trailing_axes(tmp_path):
    volume = np.stack([make_volume(), make_volume() * 2], axis=-1)
    images = readers.read_images(write_nifti(tmp_path / "x.nii", volume))
    assert images[0].suffix.startswith("#0.")
    assert images[-1].suffix == "#1.6"
    five = write_nifti(tmp_path / "y.nii", volume[..., None])
    assert len(readers.read_images(five)) == len(images)
    vectors = write_nifti(
        tmp_path / "z.nii", make_volume()[..., None, None].repeat(3, axis=-1)
    )
    with pytest.raises(ValueError, match="5 axes"):
        readers.read_images(vectors)


def test_nan_and_infinity_neither_show_nor_set_the_window(tmp_path):
    volume = make_volume()
    volume[0, 0, 3], volume[1, 0, 3], volume[2, 0, 3] = np.nan, np.inf, -np.inf
    images = readers.read_images(write_nifti(tmp_path / "x.nii", volume))
    (image,) = (i for i in images if i.suffix == "#3")
    assert image.pixels[5, 4] == 0 and image.pixels[5, 3] == 255
    assert image.pixels[5, 2] == 0
    assert 30 < np.median(image.pixels) < 220


def header_with(**fields):
    image = nibabel.Nifti1Image(make_volume(), np.eye(4))
    raw = bytearray(image.to_bytes())
    places = {
        "dim": (40, "<i2"),
        "datatype": (70, "<i2"),
        "vox_offset": (108, "<f4"),
        "pixdim": (76, "<f4"),
        "magic": (344, "S4"),
        "sform": (280, "<f4"),
    }
    for name, value in fields.items():
        start, dtype = places[name]
        data = np.array(value, dtype).tobytes()
        raw[start : start + len(data)] = data
    return bytes(raw)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["nii", "gz"])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": [3, 0, 6, 7]}, "0 x 6 x 7 voxels"),
        ({"dim": [3, -5, 6, 7]}, "-5 x 6 x 7 voxels"),
        ({"dim": [0, 5, 6, 7]}, "voxels|damaged"),
        ({"dim": [9, 5, 6, 7]}, "damaged"),
        ({"dim": [3, 30_000, 30_000, 30_000]}, "GiB"),
        ({"dim": [7] + [32_000] * 7}, "GiB"),
        ({"dim": [3, 50, 60, 70]}, "damaged"),
        ({"datatype": 32}, "colours or complex"),
        ({"datatype": 128}, "colours or complex"),
        ({"datatype": 7}, "damaged"),
        ({"vox_offset": 1e12}, "damaged"),
        ({"vox_offset": np.nan}, "damaged"),
        ({"vox_offset": -1e9}, "damaged"),
        ({"magic": b"ni1\0"}, "pair"),
        ({"magic": b"\0\0\0\0"}, "pair"),
        ({"sform": np.zeros(12)}, "how the volume lies"),
        ({"sform": np.full(12, np.nan)}, "damaged|how the volume lies"),
    ],
)
def test_bad_nifti_header_is_refused(tmp_path, capfd, pack, fields, reason):
    (tmp_path / "x").write_bytes(pack(header_with(**fields)))
    with pytest.raises(ValueError, match=reason):
        readers.read_images(str(tmp_path / "x"))
    assert capfd.readouterr().err == ""


def test_negative_voxel_sizes_do_not_matter(tmp_path, capfd):
    (tmp_path / "x.nii").write_bytes(header_with(pixdim=[1, -1, -2, -3]))
    plain = readers.read_images(write_nifti(tmp_path / "y.nii", make_volume()))
    found = readers.read_images(str(tmp_path / "x.nii"))
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"dim": [3, 2000, 2000, 2000]},
        {"vox_offset": 4e9},
        {},  # a small volume with gigabytes behind it
    ],
)
def test_gzip_bomb_is_not_unfolded(tmp_path, fields):
    packer = zlib.compressobj(9, wbits=31)
    data = packer.compress(header_with(**fields))
    block = b"\0" * 2**22
    data += b"".join(packer.compress(block) for _ in range(100))
    (tmp_path / "x.nii.gz").write_bytes(data + packer.flush())
    start = time.monotonic()
    tracemalloc.start()
    try:
        if fields:
            with pytest.raises(ValueError, match=r"GiB|damaged"):
                readers.read_images(str(tmp_path / "x.nii.gz"))
        else:
            readers.read_images(str(tmp_path / "x.nii.gz"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6 and time.monotonic() - start < 5


@pytest.mark.parametrize("keep", [20, 300, -30, -4])
def test_truncated_gzip_is_refused(tmp_path, keep):
    raw = os.urandom(64)
    volume = np.frombuffer(raw * 100, np.uint8)[: 16 * 20 * 20]
    path = write_nifti(tmp_path / "x.nii.gz", volume.reshape(16, 20, 20).copy())
    data = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(data[:keep])
    with pytest.raises(ValueError, match="damaged"):
        readers.read_images(path)


def test_gzip_with_a_wrong_checksum_is_refused(tmp_path):
    path = write_nifti(tmp_path / "x.nii.gz", make_volume())
    data = bytearray(pathlib.Path(path).read_bytes())
    data[-6] ^= 1
    pathlib.Path(path).write_bytes(data)
    with pytest.raises(ValueError, match="damaged gzip"):
        readers.read_images(path)


def test_flat_and_single_volumes(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        readers.read_images(
            write_nifti(tmp_path / "x.nii", np.full((4, 4, 4), 7.0))
        )
    flat = write_nifti(tmp_path / "y.nii", make_volume()[:, :, 0])
    (image,) = readers.read_images(flat)
    assert image.pixels.shape == (6, 5) and image.suffix == "#0"
