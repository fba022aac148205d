"""DICOM files with bad headers, bombs and damaged pixels."""

import pathlib
import zlib

import numpy as np
import pytest

from tests.data.builders import (
    assert_unreadable,
    gradient,
    make_dicom,
    read_one,
)
from trainer.data.images import dicom, readers

pydicom = pytest.importorskip("pydicom")

from pydicom import uid  # noqa: E402

# What comes with pydicom itself, without its downloads.
SAMPLES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
SECRET = "PAT-SECRET"
WINDOW = {"WindowCenter": 300, "WindowWidth": 1500}


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
        ({"without": ["PixelData"]}, "without pixel data"),
        ({"PixelData": b"\0" * 700}, "cut off after 700 of 768"),
    ],
)
def test_bad_header_is_refused_in_words_of_ours(elements, reason):
    data = make_dicom(gradient(), **elements)
    assert "SECRET" not in assert_unreadable(data, reason).upper()


@pytest.mark.parametrize(
    "name", ["NumberOfFrames", "WindowCenter", "RescaleSlope", "BitsStored"]
)
def test_text_where_a_number_must_be_is_refused(name):
    elements = {**WINDOW, "NumberOfFrames": 1, "RescaleSlope": "1"}
    data = make_dicom(gradient(), **elements)
    # The text is put where the value of the element is, with its length.
    tag = pydicom.tag.Tag(name)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    at = data.index(head)
    end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    new = head + b"DS" + len(SECRET).to_bytes(2, "little") + SECRET.encode()
    data = data[:at] + new + data[end:]
    assert SECRET not in assert_unreadable(data, "DICOM")


SIDES = (30_000).to_bytes(4, "big") * 2
J2K_BOMB = b"\xff\x4f\xff\x51\0\x29\0\0" + SIDES + b"\0" * 40
JPEG_BOMB = (
    b"\xff\xd8\xff\xe0\0\4ab\xff\xc3\0\x0b\x08" + SIDES[2:4] * 2 + bytes(9)
)
JPEG_LS_BOMB = JPEG_BOMB.replace(b"\xc3", b"\xf7")


@pytest.mark.parametrize(
    ("reason", "syntax", "frame"),
    [
        ("a private one.*convert it", "1.2.3.4.5.6", bytes(100)),
        ("MPEG2.*convert it", uid.MPEG2MPML, bytes(100)),
        ("JPIP.*convert it", "1.2.840.10008.1.2.4.94", bytes(100)),
        ("30000 x 30000", uid.JPEG2000Lossless, J2K_BOMB),
        ("30000 x 30000", uid.HTJ2KLossless, J2K_BOMB),
        ("30000 x 30000", uid.JPEGLosslessSV1, JPEG_BOMB),
        ("30000 x 30000", uid.JPEGLSLossless, JPEG_LS_BOMB),
        *(
            ("decoded", syntax, frame)
            for syntax in (
                *(uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1),
                *(uid.JPEGLSLossless, uid.JPEG2000Lossless),
                *(uid.HTJ2KLossless, uid.RLELossless),
            )
            for frame in (b"\0\0", b"\xff\xd8\xff\xd9", b"ab" * 99)
        ),
    ],
)
def test_compressed_pixels_are_refused(reason, syntax, frame):
    """Of a syntax that is not read, of a bomb whose header is small, or what
    is damaged."""
    data = make_dicom(gradient(), syntax=syntax, frames=[frame])
    assert_unreadable(data, reason)


def test_deflated_bomb_is_refused_without_being_unfolded(monkeypatch):
    data = make_dicom(gradient())
    plain, deflated = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    start = 144 + int.from_bytes(data[140:144], "little")
    meta = bytearray(data[:start].replace(plain, deflated, 1))
    assert len(meta) == start + 2
    length = meta.index(deflated) - 2
    meta[length : length + 2] = len(deflated).to_bytes(2, "little")
    meta[140:144] = (len(meta) - 144).to_bytes(4, "little")

    def deflate(*blocks):
        packer = zlib.compressobj(1, wbits=-15)
        return b"".join(map(packer.compress, blocks)) + packer.flush()

    whole = deflate(data[start:])
    pixels_read = read_one(bytes(meta) + whole).pixels
    np.testing.assert_array_equal(pixels_read, gradient())
    assert dicom.MAX_PAGES_BYTES == 2**30
    monkeypatch.setattr(dicom, "MAX_PAGES_BYTES", 2**26)
    bomb = deflate(*[b"\0" * 2**22] * 30)
    assert_unreadable(bytes(meta) + bomb, "unfolds into more than")
    assert_unreadable(bytes(meta) + whole[: len(whole) // 2], "damaged DICOM")


def test_every_cut_of_a_file_is_refused_without_names(capfd):
    data = make_dicom(gradient(), **WINDOW)
    for end in range(0, len(data) - 1, 37):
        assert "secret" not in assert_unreadable(data[:end], ".").lower()
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.parametrize("name", ["jp2klossless", "RLE"])
def test_flipped_bits_never_escape_as_another_error(name, capfd):
    path = SAMPLES / f"MR_small_{name}.dcm"
    if not path.exists():
        pytest.skip("this pydicom comes without the sample")
    generator = np.random.default_rng(0)
    data = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(data)
        for place in generator.integers(132, len(data), 3):
            damaged[place] ^= 1 << generator.integers(8)
        try:
            readers.decode_images(bytes(damaged))
        except ValueError as error:
            assert "CompressedSamples" not in str(error)
    assert "CompressedSamples" not in capfd.readouterr().err
