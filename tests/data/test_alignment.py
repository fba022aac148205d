"""Warps are those of scipy, and planted ones are found again."""

import numpy as np
from scipy import ndimage

from trainer.data.build import alignment

PARAMETERS = np.array(
    [[0.0, 0.0, 0.0, 0.0], [0.05, -0.04, 0.03, -0.06], [-0.08, 0.07, 0.0, 0.05]]
)


NOISE = np.random.default_rng(0).normal(size=(3, 64, 64))
IMAGES = 100 * ndimage.gaussian_filter(NOISE, (0, 2, 2)).astype(np.float32)
WARPED = alignment.warp(IMAGES, PARAMETERS)


def test_warp_is_that_of_scipy():
    for image, parameters, warped in zip(
        IMAGES, PARAMETERS, WARPED, strict=True
    ):
        stretch, shift = 1 + parameters[:2], 64 * parameters[2:]
        offset = 31.5 - stretch * 31.5 + shift
        expected = ndimage.affine_transform(
            image.astype(np.float64), stretch, offset, mode="nearest"
        )
        # Beyond the margin, the two continue the image in different ways.
        inside = np.s_[12:-12, 12:-12]
        np.testing.assert_allclose(
            warped[inside], expected[inside], atol=1e-3 * np.ptp(image)
        )


def test_planted_deformation_is_found():
    aligned = alignment.align(WARPED, IMAGES, np.zeros((3, 4)))
    np.testing.assert_allclose(aligned, PARAMETERS, atol=1e-3)


def test_deformation_stays_within_the_limit():
    aligned = alignment.align(IMAGES, IMAGES[::-1].copy(), np.zeros((3, 4)))
    assert np.abs(aligned).max() <= alignment.MAX_DEFORMATION


def test_constant_images_and_no_images_stay_where_they_are():
    blank = np.full((2, 32, 32), 7, np.float32)
    start = np.zeros((2, 4))
    np.testing.assert_array_equal(alignment.align(blank, blank, start), start)
    assert alignment.align(blank[:0], blank[:0], start[:0]).shape == (0, 4)
