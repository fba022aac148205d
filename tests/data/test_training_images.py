"""How training images are stored, and where they wait to be written."""

import io

import numpy as np
import PIL.Image
import pytest

from trainer.data.build import training_images
from trainer.data.build.training_images import TrainingFormat


def decode(data):
    return PIL.Image.open(io.BytesIO(data))


ROWS, COLUMNS = np.mgrid[:60, :90]
GREY = (100 + 50 * np.sin(ROWS / 9) * np.cos(COLUMNS / 7)).astype(np.uint8)
TINTED = np.stack([GREY, GREY, GREY - 10], axis=-1)
COLOURED = np.where(COLUMNS < 45, 250, GREY)
COLOURED = np.stack([COLOURED.astype(np.uint8), GREY, GREY], axis=-1)


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
    encoded = training_images.encode_for_training(GREY, TrainingFormat(30))
    assert encoded.grey == encoded.colour
    image = decode(encoded.grey)
    assert (image.mode, image.format, image.size) == ("L", "JPEG", (45, 30))
    expected = PIL.Image.fromarray(GREY).resize((45, 30), 3)
    difference = np.asarray(image, int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize(
    ("pixels", "channels", "modes"),
    [
        (TINTED, 0, ("L", "RGB")),
        (TINTED, 1, ("L", None)),
        (TINTED, 3, (None, "RGB")),
        (COLOURED, 0, (None, "RGB")),
        (COLOURED, 1, ("L", None)),
    ],
)
def test_colour_image_is_encoded_for_the_sets_that_it_can_be_in(
    pixels, channels, modes
):
    form = TrainingFormat(30, channels)
    encoded = training_images.encode_for_training(pixels, form)
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
        assert spool.read(index, 1) == encoded[index].grey
        assert spool.read(index, 3) == encoded[index].colour
