import numpy as np
import tensorflow as tf

from tests.samples import make_pixels
from trainer.data import augmentation

STILL = augmentation.Augmentation(0, 0, 0, False, False, 0, 0)
IMAGE = make_pixels(3, 1, size=32)[..., None]


def augment(settings, seed=(0, 0), image_size=32, image=IMAGE):
    return augmentation.augment_image(
        tf.constant(image), tf.constant(seed, tf.int64), image_size, settings
    ).numpy()


def draws(settings, count=40):
    return [augment(settings, (0, i)) for i in range(count)]


def test_no_augmentation_same_size_returns_image():
    np.testing.assert_allclose(augment(STILL), IMAGE, atol=1e-3)


def test_no_augmentation_resizes_like_evaluation():
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)
    resized = augment(STILL, image_size=24, image=smooth[..., None])
    expected = tf.image.resize(smooth[..., None], [24, 24]).numpy()
    np.testing.assert_allclose(
        resized[1:-1, 1:-1], expected[1:-1, 1:-1], atol=0.1
    )


def test_much_larger_image_is_not_aliased():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[..., None]
    resized = augment(STILL, image_size=32, image=stripes)
    np.testing.assert_allclose(resized[:, 2:-2], 127.5, atol=1.0)


def test_flip_gives_image_and_mirror_about_equally():
    flipped = augmentation.Augmentation(0, 0, 0, True, False, 0, 0)
    mirrored = [
        np.allclose(image, IMAGE[:, ::-1], atol=1e-3)
        for image in draws(flipped)
    ]
    straight = [
        np.allclose(image, IMAGE, atol=1e-3) for image in draws(flipped)
    ]
    assert sum(mirrored) + sum(straight) == 40
    assert 8 < sum(mirrored) < 32


def test_rotation_turns_by_up_to_the_angle():
    point = np.zeros((65, 65, 1), np.uint8)
    point[20:25, 30:35] = 255  # above the centre, at radius 10
    settings = augmentation.Augmentation(90, 0, 0, False, False, 0, 0)
    angles = []
    for i in range(40):
        image = augment(settings, (1, i), 65, point)[..., 0]
        y, x = np.average(np.indices((65, 65)), axis=(1, 2), weights=image)
        np.testing.assert_allclose(np.hypot(y - 32, x - 32), 10, atol=0.5)
        angles.append(np.degrees(np.arctan2(x - 32, 32 - y)))
    assert max(np.abs(angles)) < 91
    assert max(angles) > 45 and min(angles) < -45


def test_shift_moves_by_up_to_the_fraction():
    point = np.zeros((64, 64, 1), np.uint8)
    point[30:34, 30:34] = 255
    settings = augmentation.Augmentation(0, 0.25, 0, False, False, 0, 0)
    places = []
    for i in range(40):
        image = augment(settings, (2, i), 64, point)[..., 0]
        places.append(
            np.average(np.indices((64, 64)), axis=(1, 2), weights=image)
        )
    offsets = np.array(places) - 31.5
    assert np.abs(offsets).max() <= 16.2
    assert np.abs(offsets).max(axis=0).min() > 8


def test_zoom_changes_area_by_up_to_the_fraction():
    square = np.zeros((64, 64, 1), np.uint8)
    square[22:42, 22:42] = 255
    settings = augmentation.Augmentation(0, 0, 0.2, False, False, 0, 0)
    areas = np.array(
        [augment(settings, (3, i), 64, square).sum() / 255 for i in range(40)]
    )
    scales = np.sqrt(areas / 400)
    assert 0.79 < scales.min() < 0.9 and 1.1 < scales.max() < 1.21


def test_intensity_stays_in_range():
    settings = augmentation.Augmentation(0, 0, 0, False, False, 0.5, 0.5)
    images = np.array(draws(settings))
    assert images.min() >= 0 and images.max() <= 255
    assert images.mean(axis=(1, 2, 3)).std() > 10


def test_same_seed_same_view_other_seed_other_view():
    settings = augmentation.Augmentation()
    np.testing.assert_array_equal(
        augment(settings, (5, 7)), augment(settings, (5, 7))
    )
    assert (
        np.abs(augment(settings, (5, 7)) - augment(settings, (5, 8))).max() > 1
    )
    assert (
        np.abs(augment(settings, (5, 7)) - augment(settings, (6, 7))).max() > 1
    )
