"""How training images are stored, and where they wait to be written."""

import io

import numpy as np
import PIL.Image
import pytest

from trainer.data.build import training_images
from trainer.data.build.training_images import TrainingFormat


def decode(data):
    return PIL.Image.open(io.BytesIO(data))


def grey_pixels(height=60, width=90):
    rows, columns = np.mgrid[:height, :width]
    return (100 + 50 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.uint8)


def tinted_pixels():
    grey = grey_pixels()
    return np.stack([grey, grey, grey - 10], axis=-1)


def coloured_pixels():
    pixels = np.stack([grey_pixels()] * 3, axis=-1)
    pixels[:, :45, 0] = 250
    return pixels


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 100, (100, 100)),
        (1000, 400, (640, 256)),
        (300, 900, (256, 768)),
        (257, 257, (256, 256)),
    ],
)
def test_short_side_is_scaled_down_and_never_up(height, width, expected):
    assert training_images.training_shape(height, width, 256) == expected


def test_grey_image_is_one_jpeg_for_any_number_of_channels():
    encoded = training_images.encode_for_training(
        grey_pixels(), TrainingFormat(30)
    )
    assert encoded.grey == encoded.colour
    image = decode(encoded.grey)
    assert (image.mode, image.format, image.size) == ("L", "JPEG", (45, 30))
    expected = PIL.Image.fromarray(grey_pixels()).resize((45, 30), 3)
    difference = np.asarray(image, int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize(
    ("pixels", "channels", "modes"),
    [
        (tinted_pixels(), 0, ("L", "RGB")),
        (tinted_pixels(), 1, ("L", None)),
        (tinted_pixels(), 3, (None, "RGB")),
        (coloured_pixels(), 0, (None, "RGB")),
        (coloured_pixels(), 1, ("L", None)),
    ],
)
def test_colour_image_is_encoded_for_the_sets_that_it_can_be_in(
    pixels, channels, modes
):
    encoded = training_images.encode_for_training(
        pixels, TrainingFormat(30, channels)
    )
    versions = (encoded.grey, encoded.colour)
    assert modes == tuple(decode(v).mode if v else None for v in versions)


def test_spool_gives_back_each_version_in_any_order():
    encoded = [
        training_images.Encoded(b"same", b"same"),
        training_images.Encoded(b"grey", b"colourful"),
        training_images.Encoded(b"", b"colour only"),
        training_images.Encoded(b"grey only", b""),
    ]
    spool = training_images.Spool(io.BytesIO())
    spool.extend(encoded[:2])
    spool.extend(encoded[2:])
    for index in (3, 0, 2, 1):
        for channels, version in (
            (1, encoded[index].grey),
            (3, encoded[index].colour),
        ):
            assert spool.read(index, channels) == version
