import numpy as np
import pytest
import tensorflow as tf

from trainer.model import dropout


def masked(layer, places, step=0, seed=0, size=16, global_batch_size=8):
    inputs = tf.ones([len(places), size])
    where = dropout.BatchPlaces(
        seed,
        tf.constant(step, tf.int64),
        tf.constant(places, tf.int64),
        global_batch_size,
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
        0, tf.constant(0, tf.int64), tf.range(32, dtype=tf.int64), 32
    )
    with dropout.batch_places(where):
        values = layer(tf.ones([32, 2, 2, 3]), training=True).numpy()
    rows = values.reshape(32, -1)
    assert np.all(rows == rows[:, :1])
    assert 6 < np.sum(rows[:, 0] == 0) < 26


def test_inference_changes_nothing(layer):
    inputs = tf.ones([4, 5])
    np.testing.assert_array_equal(layer(inputs, training=False), inputs)
