"""What is done with an image, whatever its file was."""

import numpy as np
import pytest

from tests.data.builders import colour, encode, gradient, read_one
from tests.samples import SHARED
from trainer.data.images.image import is_grey, pixel_sha256

BRAIN = SHARED / "data" / "brain_mri_253"


def test_equal_channels_are_one_and_hash_alike():
    grey = read_one(encode(gradient()))
    rgb = read_one(encode(np.stack([gradient()] * 3, axis=-1), "BMP"))
    assert rgb.pixels.ndim == 2
    assert pixel_sha256(grey.pixels) == pixel_sha256(rgb.pixels)
    turned = gradient().reshape(gradient().shape[::-1])
    assert pixel_sha256(gradient()) != pixel_sha256(turned)


def test_small_marks_and_tints_are_grey_but_colour_is_not():
    tinted = np.stack([gradient() // 2, gradient() // 2 + 20] * 2, axis=-1)
    assert is_grey(tinted[..., :3])
    marked = np.stack([gradient()] * 3, axis=-1)
    marked[:2, :10] = (255, 0, 0)
    assert is_grey(marked)
    assert not is_grey(colour())


@pytest.mark.skipif(not BRAIN.exists(), reason="brain_mri_253 is not here")
def test_brain_mri_253_has_25_surplus_copies_and_is_grey():
    images = [read_one(p.read_bytes()) for p in sorted(BRAIN.glob("*/*"))]
    hashes = {pixel_sha256(image.pixels) for image in images}
    assert len(images) - len(hashes) == 25
    assert all(is_grey(image.pixels) for image in images)
