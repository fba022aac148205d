import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tests.samples import encode, make_pixels
from trainer.data import preprocessing


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and has one line of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * (width + 1))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_decode_image_grey_returns_pixels(image_format):
    pixels = make_pixels(0, 1)
    decoded = preprocessing.decode_image(encode(pixels, image_format), 1)
    assert decoded.shape == (40, 40, 1)
    tolerance = 0 if image_format == "PNG" else 40
    np.testing.assert_allclose(
        decoded[..., 0].numpy().astype(int), pixels, atol=tolerance
    )


def test_decode_image_grey_as_colour_repeats_channel():
    pixels = make_pixels(0, 1)
    decoded = preprocessing.decode_image(encode(pixels), 3).numpy()
    np.testing.assert_array_equal(decoded, np.repeat(pixels[..., None], 3, -1))


def test_resize_image_halved_averages_without_aliasing():
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 4))
    resized = preprocessing.resize_image(stripes[..., None], 4).numpy()
    assert resized.shape == (4, 4, 1)
    np.testing.assert_allclose(resized[:, 1:-1], 127.5, atol=1e-3)


def test_prepare_batch_equals_prepare_image_and_isolates_broken_images():
    good = encode(make_pixels(1, 1))
    jpeg = encode(make_pixels(2, 0), "JPEG")
    batch = [good, b"", b"no image", jpeg, jpeg[:100], good[:60], good[:-20]]
    images, valid = preprocessing.prepare_batch(tf.constant(batch), 24, 1)
    assert valid.numpy().tolist() == [True] + [False] * 2 + [True] + [False] * 3
    for i in (0, 3):
        expected = preprocessing.prepare_image(tf.constant(batch[i]), 24, 1)
        np.testing.assert_array_equal(images[i], expected)
    assert not np.any(images.numpy()[~valid.numpy()])


def test_prepare_batch_empty_returns_empty():
    images, valid = preprocessing.prepare_batch(
        tf.constant([], tf.string), 24, 3
    )
    assert images.shape == (0, 24, 24, 3)
    assert valid.shape == (0,)


@pytest.mark.parametrize(
    "size", [(8001, 8000), (70_000_000, 1), (2**31 - 1, 2**31 - 1)]
)
def test_prepare_batch_bomb_is_refused_by_its_header(size):
    _, valid = preprocessing.prepare_batch(
        tf.constant(
            [
                png_header_only(*size)
                if size[0] < 10**5
                else png_header_only(1, 1)[:16] + struct.pack(">II", *size)
            ]
        ),
        24,
        1,
    )
    assert not valid.numpy()[0]


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header claims a size."""
    data = bytearray(encode(make_pixels(0, 0), "JPEG"))
    start = data.index(b"\xff\xc0")  # start of frame: height, then width
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_prepare_batch_jpeg_bomb_is_refused_by_its_header():
    batch = [jpeg_of_size(60_000, 60_000), jpeg_of_size(40, 40)]
    _, valid = preprocessing.prepare_batch(tf.constant(batch), 24, 1)
    assert valid.numpy().tolist() == [False, True]


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "WEBP"])
def test_prepare_batch_other_formats_are_refused(image_format):
    data = encode(make_pixels(0, 0), image_format)
    _, valid = preprocessing.prepare_batch(tf.constant([data]), 24, 1)
    assert not valid.numpy()[0]


def test_prepare_batch_headers_alone_are_refused():
    good = [encode(make_pixels(0, 0), name) for name in ("PNG", "JPEG")]
    cut = [data[:size] for data in good for size in (3, 8, 20, 24, 30)]
    images, valid = preprocessing.prepare_batch(tf.constant(cut), 24, 3)
    assert not valid.numpy().any() and not images.numpy().any()
