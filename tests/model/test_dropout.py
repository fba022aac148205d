import numpy as np
import pytest
import tensorflow as tf

from trainer.model import dropout


def masked(layer, places, step=0, seed=0, size=16):
    inputs = tf.ones([len(places), size])
    where = dropout.BatchPlaces(
        seed,
        tf.constant(step, tf.int64),
        tf.constant(places, tf.int64),
    )
    with dropout.batch_places(where):
        return layer(inputs, training=True).numpy()


@pytest.fixture
def layer():
    return dropout.GlobalBatchDropout(0.25, name="drop")


def test_replicas_together_drop_what_one_device_drops(layer):
    whole = masked(layer, range(8))
    halves = [masked(layer, range(4)), masked(layer, range(4, 8))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)


def test_rate_and_scale(layer):
    values = masked(layer, range(8), size=5000)
    assert set(np.unique(values)) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_allclose((values == 0).mean(), 0.25, atol=0.01)


def test_step_seed_and_layer_change_the_mask(layer):
    base = masked(layer, range(8))
    other = dropout.GlobalBatchDropout(0.25, name="other")
    assert not np.array_equal(base, masked(layer, range(8), step=1))
    assert not np.array_equal(base, masked(layer, range(8), seed=1))
    assert not np.array_equal(base, masked(other, range(8)))
    np.testing.assert_array_equal(base, masked(layer, range(8)))


def test_noise_shape_drops_whole_rows():
    layer = dropout.GlobalBatchDropout(
        0.5, noise_shape=(None, 1, 1, 1), name="drop_connect"
    )
    where = dropout.BatchPlaces(
        0, tf.constant(0, tf.int64), tf.range(32, dtype=tf.int64)
    )
    with dropout.batch_places(where):
        values = layer(tf.ones([32, 2, 2, 3]), training=True).numpy()
    rows = values.reshape(32, -1)
    assert np.all(rows == rows[:, :1])
    assert 6 < np.sum(rows[:, 0] == 0) < 26


def test_compiled_mask_equals_the_uncompiled(layer):
    places = tf.constant([0, 3, 1, 2], tf.int64)

    def call_layer(step):
        with dropout.batch_places(dropout.BatchPlaces(5, step, places)):
            return layer(tf.ones([4, 1280]), training=True)

    step = tf.constant(2**33 + 7, tf.int64)
    compiled = tf.function(call_layer, jit_compile=True)(step)
    np.testing.assert_array_equal(compiled, call_layer(step))


def test_draws_are_uniform_and_independent():
    step, places = tf.constant(11, tf.int64), tf.range(512, dtype=tf.int64)
    where = dropout.BatchPlaces(3, step, places)
    bits = dropout.draw_bits(where, "one", 1280).numpy()
    uniform = bits / 2.0**32
    # Chi-squared of 64 bins, 63 degrees of freedom: within six deviations.
    counts = np.histogram(uniform, 64, (0, 1))[0]
    expected = uniform.size / 64
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert abs(chi_squared - 63) < 6 * np.sqrt(2 * 63)
    # Neither rows nor columns, nor two steps, nor two layers go together.
    later = dropout.BatchPlaces(3, step + 1, places)
    for other in (
        np.roll(uniform, 1, axis=0),
        np.roll(uniform, 1, axis=1),
        dropout.draw_bits(later, "one", 1280).numpy() / 2.0**32,
        dropout.draw_bits(where, "two", 1280).numpy() / 2.0**32,
    ):
        correlation = np.corrcoef(uniform.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 6 / np.sqrt(uniform.size)
    assert len(np.unique(bits)) > 0.999 * bits.size
    # As many fall below the rate in each row as chance gives.
    dropped = (uniform < 0.3).sum(axis=1)
    np.testing.assert_allclose(dropped.mean(), 384, atol=4)
    np.testing.assert_allclose(dropped.std(), np.sqrt(1280 * 0.21), rtol=0.2)


def test_single_draws_of_rows_are_uniform_and_independent():
    """Drop-connect draws one number a row: over steps, rows and layers."""
    places = tf.range(64, dtype=tf.int64)
    draws = (
        np.array(
            [
                [
                    dropout.draw_bits(
                        dropout.BatchPlaces(
                            3, tf.constant(step, tf.int64), places
                        ),
                        name,
                        1,
                    ).numpy()[:, 0]
                    for name in ("block2_drop", "block3_drop", "head_dropout")
                ]
                for step in range(100)
            ]
        )
        / 2.0**32
    )
    counts = np.histogram(draws, 64, (0, 1))[0]
    expected = draws.size / 64
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert abs(chi_squared - 63) < 6 * np.sqrt(2 * 63)
    for axis in range(3):
        other = np.roll(draws, 1, axis)
        correlation = np.corrcoef(draws.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 6 / np.sqrt(draws.size)


def test_inference_changes_nothing(layer):
    inputs = tf.ones([4, 5])
    np.testing.assert_array_equal(layer(inputs, training=False), inputs)
