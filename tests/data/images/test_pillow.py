"""Files of Pillow's formats, whole and damaged, and what is kept of them."""

import io

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import tifffile

from tests.data.builders import (
    assert_unreadable,
    bomb,
    colour,
    encode,
    gradient,
    limits,
    read_one,
)
from tests.data.images import raster
from tests.samples import SHARED
from trainer.data.images import image, readers, strip

BRAIN = SHARED / "data" / "brain_mri_253"


def decode(data: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_format_keeps_grey_pixels(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    image = read_one(encode(gradient(), image_format, **options))
    np.testing.assert_array_equal(image.pixels, gradient())
    np.testing.assert_array_equal(decode(image.encoded), gradient())
    assert image.source_format == image_format.lower()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_png_mode_keeps_its_bytes_and_its_colour(mode):
    source = PIL.Image.fromarray(colour()).convert(mode)
    if mode == "RGBA":
        source.putalpha(100)
    image = read_one(encode(source))
    assert image.encoded == encode(source)
    expected = source.convert("L" if mode == "LA" else "RGB")
    np.testing.assert_array_equal(image.pixels, np.asarray(expected))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_metadata_is_lost_but_no_pixel(image_format):
    exif = PIL.Image.Exif()
    exif[0x010E] = "JOHN-DOE"
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Comment", "JANE-DOE")
    text.add_itxt("Author", "JANE-DOE")
    comments = {"comment": b"JANE-DOE"}
    if image_format == "PNG":
        comments = {"pnginfo": text}
    original = encode(gradient(), image_format, exif=exif, **comments)
    assert b"JOHN-DOE" in original and b"JANE-DOE" in original
    image = read_one(original)
    assert image.format == image_format.lower()
    assert b"-DOE" not in image.encoded
    np.testing.assert_array_equal(decode(image.encoded), decode(original))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_every_exif_orientation_is_upright(orientation, image_format):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = read_one(encode(gradient(), image_format, exif=exif))
    stored = decode(encode(gradient(), image_format))
    turned, quarter = np.rot90(stored, 2), np.rot90(stored)
    expected = [
        *(stored, stored[:, ::-1], turned, stored[::-1]),
        *(stored.T, np.rot90(stored, -1), turned.T, quarter),
    ][orientation - 1]
    np.testing.assert_array_equal(image.pixels, expected)
    np.testing.assert_array_equal(decode(image.encoded), expected)


def test_16_bit_png_is_windowed():
    values = np.linspace(0, 60000, 24 * 32).reshape(24, 32).astype(np.uint16)
    image = read_one(encode(values))
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(image.pixels, expected, atol=0.51)
    assert image.bit_depth == 16
    given = read_one(encode(values), window_center=30000, window_width=20000)
    expected = np.clip((values - 20000.0) / 20000, 0, 1) * 255
    np.testing.assert_allclose(given.pixels, expected, atol=0.51)


def seen(values, inverted=False) -> np.ndarray:
    """Values between their robust percentiles, in [0, 255]."""
    low, high = np.percentile(values, [0.5, 99.5])
    shown = np.clip((values - low) / (high - low), 0, 1) * 255
    return 255 - shown if inverted else shown


@pytest.mark.parametrize("color_type", [2, 4, 6])
@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit_colour_of_a_png_is_windowed_and_not_cut(color_type, interlaced):
    values = raster.samples(16, color_type)
    values = values[..., 0] if color_type == 4 else values[..., :3]
    image = read_one(raster.png(16, color_type, interlaced))
    np.testing.assert_allclose(image.pixels, seen(values), atol=0.51)
    assert image.bit_depth == 16 and not image.kept_format


@pytest.mark.parametrize(
    "dtype", ["u2", "i1", "i2", "u4", "i4", "u8", "f2", "f4", "f8"]
)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("photometric", "planar", "num_channels"),
    [
        *(("minisblack", None, 1), ("miniswhite", None, 1)),
        *(("minisblack", "contig", 2), ("minisblack", "separate", 2)),
        *(("rgb", "contig", 3), ("rgb", "separate", 3), ("rgb", "contig", 4)),
    ],
)
def test_tiff_of_every_number_type_is_windowed(
    dtype, order, photometric, planar, num_channels
):
    values = raster.samples(16, 6)[..., :num_channels] // 50 - 40
    if dtype[0] == "u":
        values += 40
    stored = values[..., 0] if num_channels == 1 else values
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        (np.moveaxis(stored, -1, 0) if planar == "separate" else stored).astype(
            order + dtype
        ),
        byteorder=order,
        photometric=photometric,
        planarconfig=planar,
        compression="zlib" if order == ">" else None,
    )
    image = read_one(buffer.getvalue())
    expected = values[..., :3] if photometric == "rgb" else values[..., 0]
    np.testing.assert_allclose(
        image.pixels, seen(expected, photometric == "miniswhite"), atol=0.51
    )
    assert image.bit_depth == 8 * int(dtype[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_pages_of_a_file_are_limited_together(monkeypatch, dtype):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.ones((9, 200, 300), dtype), compression="zlib")
    monkeypatch.setattr(image, "MAX_PAGES_BYTES", 540_000)
    assert len(readers.decode_images(buffer.getvalue())) == 9
    monkeypatch.setattr(image, "MAX_PAGES_BYTES", 539_999)
    assert_unreadable(buffer.getvalue(), "its 9 pages take .* split it")


def test_multi_page_tiff_gives_an_image_per_page():
    pages = [PIL.Image.fromarray(gradient() // d) for d in (1, 2, 3)]
    images = readers.decode_images(
        encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    )
    assert [image.suffix for image in images] == ["#0", "#1", "#2"]
    np.testing.assert_array_equal(images[2].pixels, gradient() // 3)


@pytest.mark.parametrize("tag", [{254: 1}, {254: 4}, {255: 2}])
def test_smaller_versions_in_a_tiff_are_no_pages(tag):
    page, small = (PIL.Image.fromarray(gradient()[::d]) for d in (1, 2))
    small.encoderinfo = {"tiffinfo": tag}
    data = encode(page, "TIFF", save_all=True, append_images=[small, small])
    image = read_one(data)
    assert (image.suffix, image.num_bytes) == ("", len(data))
    np.testing.assert_array_equal(image.pixels, gradient())


@pytest.mark.parametrize(
    "image_format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000"]
)
def test_damaged_images_raise_nothing_but_value_errors(image_format):
    try:
        data = encode(gradient(), image_format)
    except (OSError, KeyError):
        pytest.skip("this Pillow does not write the format")
    for part in (0.1, 0.5, 0.9):
        assert_unreadable(
            data[: int(part * len(data))], r"damaged|not an image"
        )
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            damaged[place] ^= int(generator.integers(1, 256))
        try:
            readers.decode_images(bytes(damaged))
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "GIF", "TIFF"])
def test_bomb_is_refused_by_its_header(image_format):
    data = bomb(image_format)
    with limits(max_bytes=20e6, max_seconds=2):
        assert_unreadable(data, r"30000|pixels are more than")


def test_bomb_beyond_pillow_s_own_limit_says_what_to_do(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert_unreadable(encode(gradient()), r"more than the .* scale the image")


def test_eps_is_not_handed_to_ghostscript(monkeypatch):
    # Calling it would be another error.
    monkeypatch.setattr("subprocess.check_call", None)
    assert_unreadable(encode(PIL.Image.new("L", (8, 8)), "EPS"), "PostScript")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(99), "HEIF photo"),
        (b"NRRD0004\ntype: short", "NRRD volume"),
        (b"ObjectType = Image", "MetaImage volume"),
        (b"%PDF-1.7", "PDF document"),
        (b"<svg xmlns=", "SVG drawing"),
    ],
)
def test_format_that_is_not_read_is_named(data, name):
    assert_unreadable(data, f"{name}, which is not read; convert")


@pytest.mark.parametrize(
    "junk",
    [
        *(b"\0", b"\x12\x34\0", b"\xff\0", b"\xff\xff"),
        *(b"\xff\xd0", b"\xff\xd7"),
    ],
)
def test_junk_between_segments_of_a_jpeg_is_passed_over(junk):
    data = encode(colour(), "JPEG")
    with_junk = data[:20] + junk + data[20:]
    assert strip.strip(with_junk, "jpeg") == strip.strip(data, "jpeg")
    np.testing.assert_array_equal(
        decode(read_one(with_junk).encoded), decode(data)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        # All eight restart markers.
        {"restart_marker_blocks": 1, "subsampling": 0},
    ],
)
def test_strip_of_a_jpeg_keeps_all_of_its_scans(options):
    data = encode(colour(), "JPEG", **options)
    stripped = strip.strip(data + b"after the end", "jpeg")
    assert strip.strip(data + b"x", "jpeg") == stripped
    assert b"after the end" not in stripped
    np.testing.assert_array_equal(decode(stripped), decode(data))
    assert read_one(data).quality in range(70, 81)


SECRET = b"Secret^Name, born 1970"


def longer_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with a segment whose end is text."""
    body += SECRET
    length = (len(body) + 2).to_bytes(2, "big")
    return data[:2] + bytes([0xFF, marker]) + length + body + data[2:]


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xEE, b"Adobe\0d\0\0\0\0\1"),
        (0xEE, b"Adobe\0d\0\0\0\0"),
        (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        (0xE0, b"JFXX\0"),
        (0xDC, b"\0\0"),
        (0xFE, b""),
    ],
)
def test_text_at_the_end_of_a_segment_is_left_out(marker, body):
    for colours in (colour(), gradient()):
        data = longer_segment(encode(colours, "JPEG"), marker, body)
        stripped = strip.strip(data, "jpeg")
        assert SECRET in data and SECRET not in stripped
        assert strip.strip(stripped, "jpeg") == stripped
        np.testing.assert_array_equal(decode(stripped), decode(data))


@pytest.mark.parametrize("body", [b"\xe0\0\x08JFIF\0\1", b"\xee\0\7Adobe"])
def test_segment_that_ends_too_early_is_left_out(body):
    data = encode(colour(), "JPEG")
    with_segment = data[:2] + b"\xff" + body + data[2:]
    assert strip.strip(with_segment, "jpeg") == strip.strip(data, "jpeg")


def longer_chunk(data: bytes, kind: bytes) -> bytes:
    """A PNG one of whose chunks, or a new one, ends in text."""
    at = data.find(kind) - 4
    if at < 0:
        at, body, end = 33, b"\0\0\xb1\x8f", 33
    else:
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        body = data[at + 8 : end - 4]
    body += SECRET * 3
    return data[:at] + raster.chunk(kind, body) + data[end:]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
@pytest.mark.parametrize(
    "kind", [b"gAMA", b"sRGB", b"cHRM", b"tRNS", b"PLTE", b"IEND", b"tEXt"]
)
def test_text_at_the_end_of_a_chunk_is_left_out(mode, kind):
    image = PIL.Image.fromarray(gradient())
    # Four colours, for which the palette has no more places.
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    data = longer_chunk(encode(image, "PNG"), kind)
    stripped = strip.strip(data, "png")
    assert SECRET in data and SECRET not in stripped
    np.testing.assert_array_equal(decode(stripped), np.asarray(image))
    assert strip.strip(stripped, "png") == stripped


@pytest.mark.parametrize(
    ("color_type", "value"), [(0, b"\0\1"), (2, b"\0\1" * 3), (3, b"\0\x80")]
)
def test_transparency_is_kept(color_type, value):
    chunk = raster.chunk(b"tRNS", value)
    data = raster.png(8, color_type, before=chunk)
    assert chunk in strip.strip(data, "png")


@pytest.mark.skipif(not BRAIN.exists(), reason="brain_mri_253 is not here")
@pytest.mark.slow
def test_stripped_bytes_decode_as_the_original_in_tensorflow():
    import tensorflow as tf

    for path in sorted(BRAIN.glob("*/*"))[::3]:
        original = path.read_bytes()
        for channels in (1, 3):
            decoded = [
                tf.io.decode_image(data, channels, expand_animations=False)
                for data in (read_one(original).encoded, original)
            ]
            np.testing.assert_array_equal(*decoded, err_msg=path.name)
