import numpy as np
import pytest
import tensorflow as tf

from trainer.model import views


def make_pixels():
    return np.random.default_rng(0).uniform(1, 255, (3, 56, 56, 2))


@pytest.mark.parametrize(
    ("number", "to", "of"),
    [
        (0, np.s_[:], np.s_[:]),
        (1, np.s_[:], np.s_[:, :, ::-1]),
        (2, np.s_[:, :-2], np.s_[:, 2:]),
        (3, np.s_[:, 2:], np.s_[:, :-2]),
        (4, np.s_[:, :, :-2], np.s_[:, :, 2:]),
        (5, np.s_[:, :, 2:], np.s_[:, :, :-2]),
    ],
)
def test_view_is_the_image_its_mirror_or_a_shift(number, to, of):
    pixels = make_pixels()
    expected = np.zeros_like(pixels)
    expected[to] = pixels[of]
    view = views.make_view(tf.constant(pixels), number)
    np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize("num_views", [1, 2, 6])
def test_outputs_are_averaged_over_the_first_views(num_views):
    pixels = tf.constant(make_pixels())

    def model(pixels, training):
        assert not training
        # No two views, and no two images, have the same.
        weights = tf.reshape(tf.range(56.0 * 56 * 2, dtype=tf.float64), [-1, 2])
        return tf.reshape(pixels, [len(pixels), -1, 2])[:, :, 0] @ weights

    expected = np.mean(
        [
            model(views.make_view(pixels, i), training=False)
            for i in range(num_views)
        ],
        axis=0,
    )
    outputs = views.averaged(model, num_views)(pixels, training=False)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)
