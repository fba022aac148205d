import numpy as np
import pytest
import tensorflow as tf

from tests.data.builders import bomb
from tests.samples import encode, make_pixels
from trainer.data import preprocessing


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_decode_image_grey_returns_pixels(image_format):
    pixels = make_pixels(0, 1)
    decoded = preprocessing.decode_image(encode(pixels, image_format), 1)
    assert decoded.shape == (40, 40, 1)
    grey = decoded[..., 0].numpy().astype(int)
    tolerance = 0 if image_format == "PNG" else 40
    np.testing.assert_allclose(grey, pixels, atol=tolerance)


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
    nothing = tf.constant([], tf.string)
    images, valid = preprocessing.prepare_batch(nothing, 24, 3)
    assert images.shape == (0, 24, 24, 3) and valid.shape == (0,)


def test_prepare_batch_refuses_bombs_by_their_headers_and_other_formats():
    sizes = [(8001, 8000), (70_000_000, 1), (2**31 - 1, 2**31 - 1)]
    refused = [bomb("PNG", *size) for size in sizes]
    refused.append(bomb("JPEG", 60_000, 60_000))
    pixels = make_pixels(0, 0)
    refused += [encode(pixels, name) for name in ("GIF", "BMP", "WEBP")]
    batch = tf.constant([*refused, encode(pixels, "JPEG")])
    _, valid = preprocessing.prepare_batch(batch, 24, 1)
    assert valid.numpy().tolist() == [False] * 7 + [True]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    ("limit", "is_valid"), [(1200, True), (1199, False), (39, False)]
)
def test_whole_image_of_too_many_pixels_is_refused(
    monkeypatch, image_format, limit, is_valid
):
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", limit)
    image = encode(make_pixels(0, 0)[:30], image_format)
    _, valid = preprocessing.prepare_batch(tf.constant([image]), 24, 1)
    assert valid.numpy().tolist() == [is_valid]


def test_prepare_batch_headers_alone_are_refused():
    good = [encode(make_pixels(0, 0), name) for name in ("PNG", "JPEG")]
    cut = [data[:size] for data in good for size in (3, 8, 20, 24, 30)]
    images, valid = preprocessing.prepare_batch(tf.constant(cut), 24, 3)
    assert not valid.numpy().any() and not images.numpy().any()
