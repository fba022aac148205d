"""NIfTI against nibabel's own orientations and scaling, and bad headers."""

import gzip
import itertools
import os
import zlib

import numpy as np
import pytest

from tests.data.builders import assert_unreadable, limits, make_nifti, read_one
from trainer.data.images import nifti, readers
from trainer.data.images.image import find_window

nibabel = pytest.importorskip("nibabel")
from nibabel import orientations  # noqa: E402

PACK = pytest.mark.parametrize(
    "pack", [bytes, gzip.compress], ids=["nii", "gz"]
)


def make_volume() -> np.ndarray:
    """Values that tell every corner: right, front and head are bright."""
    right, front, head = np.mgrid[:5, :6, :7]
    return (100 + right + 10 * front + 100 * head).astype(np.float32)


def assert_shown(pixels, values, width):
    """Pixels are those of values seen through a window from 0."""
    expected = np.clip(values / width * 255, 0, 255)
    np.testing.assert_allclose(pixels, expected, atol=0.51)


@PACK
def test_slices_are_upright_and_empty_ones_left_out(pack):
    volume = np.zeros((12, 16, 5), np.float32)
    volume[:, :, 1:4] = 40
    volume[9:, 2:6, 2] = 100  # on the right, towards the back
    volume[0, 0, 2] = np.nan
    images = readers.decode_images(pack(make_nifti(volume)))
    assert [image.suffix for image in images] == ["#1", "#2", "#3"]
    pixels = images[1].pixels
    assert pixels.shape == (16, 12)
    # Right is on the left, the back is below.
    assert pixels[10:14, :3].min() == 255
    assert pixels[:10].max() < 255
    assert pixels[15, 11] == 0


ALL_CODES = [
    "".join(code)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for code in itertools.product(*axes)
]


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_all_48_orientations_give_the_same_slices(slice_axis):
    volume = make_volume()
    canonical = nibabel.Nifti1Image(volume, np.eye(4))
    for code in ALL_CODES:
        turn = orientations.ornt_transform(
            orientations.io_orientation(np.eye(4)),
            orientations.axcodes2ornt(tuple(code)),
        )
        turned = canonical.as_reoriented(turn)
        assert "".join(nibabel.aff2axcodes(turned.affine)) == code
        images = readers.decode_images(turned.to_bytes(), 450, 900, slice_axis)
        for image in images:
            plane = volume.take(int(image.suffix[1:]), axis=slice_axis)
            # Rows run down from the head or the front, columns to the
            # patient's left, or from the face to the back.
            assert_shown(image.pixels, plane[::-1, ::-1].T, 900)
        assert len(images) == volume.shape[slice_axis]


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_every_number_type_byte_order_and_version(dtype, order, kind):
    volume = (make_volume() // 9).astype(order + dtype)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(volume.dtype)
    image = kind(volume, np.eye(4), header)
    image.header.set_slope_inter(2.0, -5.0)
    raw = image.to_bytes()
    values = kind.from_bytes(raw).get_fdata()[::-1, ::-1, 4].T
    for data in (raw, gzip.compress(raw)):
        images = readers.decode_images(data, 80, 160)
        (pixels,) = (i.pixels for i in images if i.suffix == "#4")
        assert_shown(pixels, values, 160)


@PACK
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_voxels_without_an_offset_begin_behind_the_header(pack, kind):
    raw = bytearray(kind(make_volume(), np.eye(4)).to_bytes())
    expected = readers.decode_images(bytes(raw))
    start, size = (108, 4) if kind is nibabel.Nifti1Image else (168, 8)
    raw[start : start + size] = bytes(size)
    images = readers.decode_images(pack(bytes(raw)))
    for image, same in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image.pixels, same.pixels)


def test_slope_makes_the_values():
    volume = make_volume().astype(np.int16)
    raw = bytearray(make_nifti(volume))
    raw[112:120] = np.array([0.5, 7], "<f4").tobytes()  # scl_slope, scl_inter
    images = readers.decode_images(bytes(raw), 200, 400)
    assert_shown(images[-1].pixels, volume[::-1, ::-1, 6].T * 0.5 + 7, 400)
    assert nifti._find_window(volume, 0.5, 7) == find_window(volume * 0.5 + 7)


def test_time_and_trailing_axes():
    volume = np.stack([make_volume(), make_volume() * 2], axis=-1)
    images = readers.decode_images(make_nifti(volume))
    assert images[0].suffix.startswith("#0.")
    assert images[-1].suffix == "#1.6"
    five = readers.decode_images(make_nifti(volume[..., None]))
    assert len(five) == len(images)
    vectors = make_volume()[..., None, None].repeat(3, axis=-1)
    assert_unreadable(make_nifti(vectors), "5 axes")


def test_nan_and_infinity_neither_show_nor_set_the_window():
    volume = make_volume()
    volume[0, 0, 3], volume[1, 0, 3], volume[2, 0, 3] = np.nan, np.inf, -np.inf
    images = readers.decode_images(make_nifti(volume))
    (image,) = (i for i in images if i.suffix == "#3")
    assert image.pixels[5, 4] == 0 and image.pixels[5, 3] == 255
    assert image.pixels[5, 2] == 0
    assert 30 < np.median(image.pixels) < 220


def nifti_with(**fields) -> bytes:
    """A volume with other fields in its header."""
    raw = bytearray(make_nifti(make_volume()))
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


@PACK
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
def test_bad_header_is_refused(capfd, pack, fields, reason):
    assert_unreadable(pack(nifti_with(**fields)), reason)
    assert capfd.readouterr().err == ""


def test_negative_voxel_sizes_do_not_matter(capfd):
    images = readers.decode_images(nifti_with(pixdim=[1, -1, -2, -3]))
    plain = readers.decode_images(nifti_with())
    for image, same in zip(images, plain, strict=True):
        np.testing.assert_array_equal(image.pixels, same.pixels)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"dim": [3, 2000, 2000, 2000]},
        {"vox_offset": 4e9},
        {},  # a small volume with much behind it
    ],
)
def test_gzip_bomb_is_not_unfolded(fields):
    packer = zlib.compressobj(1, wbits=31)
    data = packer.compress(nifti_with(**fields))
    block = b"\0" * 2**22
    data += b"".join(packer.compress(block) for _ in range(40))
    data += packer.flush()
    with limits(max_bytes=50e6, max_seconds=5):
        if fields:
            assert_unreadable(data, r"GiB|damaged")
        else:
            readers.decode_images(data)


@pytest.mark.parametrize("keep", [20, 300, -30, -4])
def test_truncated_gzip_is_refused(keep):
    volume = np.frombuffer(os.urandom(64) * 100, np.uint8).reshape(16, 20, 20)
    assert_unreadable(gzip.compress(make_nifti(volume))[:keep], "damaged")


def test_truncated_volume_and_wrong_checksum_are_refused():
    assert_unreadable(make_nifti(np.ones((8, 8, 8)))[:1000], "damaged NIfTI")
    data = bytearray(gzip.compress(nifti_with()))
    data[-6] ^= 1
    assert_unreadable(bytes(data), "damaged gzip")


def test_flat_and_single_volumes():
    assert_unreadable(make_nifti(np.full((4, 4, 4), 7.0)), "empty")
    image = read_one(make_nifti(make_volume()[:, :, 0]))
    assert image.pixels.shape == (6, 5) and image.suffix == "#0"
