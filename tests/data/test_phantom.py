"""The drawing of heads, slice by slice."""

import numpy as np
import pytest

from trainer.data import phantom

IMAGE_SIZE = 96


def _patient(seed, contrast=0, has_lesion=False):
    rng = np.random.default_rng(seed)
    setting = phantom.draw_settings(rng, 3)[contrast]
    return phantom.draw_patient(rng, setting, 4, has_lesion)


def _slice(patient, index, image_size=IMAGE_SIZE, noise_seed=0):
    rng = np.random.default_rng(noise_seed)
    return phantom.draw_slice(patient, index, image_size, rng)


def _correlation(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


@pytest.mark.parametrize("contrast", range(len(phantom.CONTRASTS)))
@pytest.mark.parametrize("has_lesion", [False, True])
def test_slice_is_grey_with_dark_air_around_a_bright_head(contrast, has_lesion):
    pixels = _slice(_patient(3, contrast, has_lesion), 0)

    assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE)
    assert pixels.dtype == np.uint8
    corners = np.stack([pixels[:8, :8], pixels[-8:, -8:]])
    third = IMAGE_SIZE // 3
    # Rician noise: air is dark, but neither black nor constant.
    assert 0 < corners.mean() < 20
    assert corners.std() > 0
    assert pixels[third:-third, third:-third].mean() > 2 * corners.mean()


def test_adjacent_slices_of_a_patient_are_alike_but_not_the_same():
    correlations, strangers = [], []
    for seed in range(8):
        first, second = (
            _slice(_patient(seed), i, noise_seed=i) for i in (0, 1)
        )
        stranger = _slice(_patient(seed + 100), 0)
        correlations.append(_correlation(first, second))
        strangers.append(_correlation(first, stranger))

    assert max(correlations) < 0.999
    assert np.mean(correlations) > np.mean(strangers) + 0.1


def test_larger_image_shows_the_same_head():
    patient = _patient(5, has_lesion=True)
    small, large = _slice(patient, 1, 64), _slice(patient, 1, 128)

    halved = large.reshape(64, 2, 64, 2).mean((1, 3))
    assert _correlation(small, halved) > 0.97


def test_every_slice_of_a_patient_shows_the_lesion():
    for seed in range(20):
        patient = _patient(seed, has_lesion=True)
        up, radius = patient.lesion.center[2], patient.lesion.radius
        heights = patient.setting.bottom + phantom.SLICE_SPACING * np.arange(4)
        assert np.all(np.abs(heights - up) < 0.8 * radius)


def test_lesion_lies_inside_the_brain():
    for seed in range(50):
        lesion = _patient(seed, has_lesion=True).lesion
        assert np.hypot(*lesion.center[:2]) + lesion.radius < 0.83


def test_settings_cover_each_range_evenly():
    settings = phantom.draw_settings(np.random.default_rng(0), 40)

    noise = np.sort([setting.noise for setting in settings])
    # One in each fortieth of the range.
    places = (noise - 0.008) / (0.03 - 0.008) * 40
    np.testing.assert_array_equal(np.floor(places), np.arange(40))
