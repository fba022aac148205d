import dataclasses

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


def draw(image=IMAGE, **settings):
    """Forty views of an image, with nothing but these settings."""
    only = dataclasses.replace(STILL, **settings)
    size = len(image)
    return np.stack([augment(only, (1, i), size, image) for i in range(40)])


def patch(size, rows, columns):
    """A black image with a white rectangle."""
    image = np.zeros((size, size, 1), np.uint8)
    image[rows, columns] = 255
    return image


def centres(images):
    """Row and column of the light, from the middle of each image."""
    size = images.shape[1]
    places = np.indices((size, size)) - (size - 1) / 2
    return np.array(
        [
            np.average(places, axis=(1, 2), weights=image[..., 0])
            for image in images
        ]
    )


def test_no_augmentation_same_size_returns_image():
    np.testing.assert_allclose(augment(STILL), IMAGE, atol=1e-3)


def test_no_augmentation_resizes_like_evaluation():
    smooth = np.add.outer(2 * np.arange(30), np.arange(35)).astype(np.uint8)
    resized = augment(STILL, image_size=24, image=smooth[..., None])
    expected = tf.image.resize(smooth[..., None], [24, 24]).numpy()
    inside = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(resized[inside], expected[inside], atol=0.1)


def test_much_larger_image_is_not_aliased():
    # Of three pixels; of two, whatever interpolates gives the mean.
    stripes = np.tile(np.array([0, 255], np.uint8), (90, 45))[..., None]
    resized = augment(STILL, image_size=30, image=stripes)
    assert np.abs(resized[:, 2:-2] - 127.5).max() < 20


def test_each_flip_gives_image_and_mirror_about_equally():
    mirrors = (IMAGE, IMAGE[:, ::-1], IMAGE[::-1], IMAGE[::-1, ::-1])
    for horizontal, vertical in ((True, False), (False, True), (True, True)):
        views = draw(horizontal_flip=horizontal, vertical_flip=vertical)
        counts = np.array(
            [
                np.isclose(views, m, atol=1e-3).all((1, 2, 3)).sum()
                for m in mirrors
            ]
        )
        possible = [True, horizontal, vertical, horizontal and vertical]
        assert counts.sum() == 40
        assert ((counts > 0.2 * 40 / sum(possible)) == possible).all()


def test_rotation_turns_by_up_to_the_angle():
    # Above the centre, at radius 10.
    above = patch(65, slice(20, 25), slice(30, 35))
    y, x = centres(draw(above, rotation_degrees=90)).T
    np.testing.assert_allclose(np.hypot(y, x), 10, atol=0.5)
    angles = np.degrees(np.arctan2(x, -y))
    assert np.abs(angles).max() < 91
    assert angles.max() > 45 and angles.min() < -45


def test_shift_moves_by_up_to_the_fraction():
    point = patch(64, slice(30, 34), slice(30, 34))
    offsets = np.abs(centres(draw(point, shift_fraction=0.25)))
    assert offsets.max() <= 16.2
    assert offsets.max(axis=0).min() > 8


def test_zoom_changes_area_by_up_to_the_fraction():
    square = patch(64, slice(22, 42), slice(22, 42))
    areas = draw(square, zoom_fraction=0.2).sum(axis=(1, 2, 3)) / 255
    scales = np.sqrt(areas / 400)
    assert 0.79 < scales.min() < 0.9 and 1.1 < scales.max() < 1.21


def test_intensity_stays_in_range():
    images = draw(brightness=0.5, contrast=0.5)
    assert images.min() >= 0 and images.max() <= 255
    assert images.mean(axis=(1, 2, 3)).std() > 10


def test_same_seed_same_view_other_seed_other_view():
    first, again, later, other = (
        augment(augmentation.Augmentation(), seed)
        for seed in ((5, 7), (5, 7), (5, 8), (6, 7))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - later).max() > 1
    assert np.abs(first - other).max() > 1


def test_view_of_an_oblong_image_is_one_affine_map():
    settings = augmentation.Augmentation(
        rotation_degrees=40,
        shift_fraction=0.3,
        zoom_fraction=0.1,
        vertical_flip=True,
    )
    draws = np.array([0.5, -0.4, -0.1, 0.2, 0.3, -0.6, 0, 0], np.float32)
    row = augmentation._projective_row(
        tf.constant(draws), tf.constant(30.0), tf.constant(50.0), 20, settings
    ).numpy()
    angle, zoom = np.radians(20), 1 - 0.04
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    # The first flip is drawn and the second is not; sides are x, then y.
    scale = np.diag([-50 / 20 / zoom, 30 / 20 / zoom])
    middle = [24.5 + 0.3 * 0.3 * 50, 14.5 - 0.6 * 0.3 * 30]
    for place in ([0, 0, 1], [19, 0, 1], [3, 17, 1]):
        expected = turn @ scale @ (np.array(place[:2]) - 9.5) + middle
        found = row[:3] @ place, row[3:6] @ place
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert not row[6:].any()
