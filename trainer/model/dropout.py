"""Dropout whose mask does not depend on how a batch is spread over replicas.

Keras draws a mask of the replica's shape from the replica's generator, so two
replicas drop other units than one does. Here a row of the mask is drawn from
(seed, step, layer, place in the global batch). The layer serves training only:
a saved model holds Keras' own `Dropout`, which is the same at inference.
"""

import contextlib
import math
import threading
import zlib

import keras
import tensorflow as tf

# 2^32 over the golden ratio, as hashes spread consecutive numbers.
_GOLDEN = 0x9E3779B9


class BatchPlaces:
    """Where the rows of a replica's batch stand in the global batch."""

    def __init__(
        self, seed: int | tf.Tensor, step: tf.Tensor, places: tf.Tensor
    ):
        """Hashes what all layers have in common, once for all of them.

        Args:
            seed: of the run.
            step: int64 scalar.
            places: int64 `[per_replica_batch]`, in [0, global_batch_size).
        """
        key = _mix(tf.cast(step, tf.uint32) + _mix(tf.cast(seed, tf.uint32)))
        self.hashes = _mix(_mix(tf.cast(places, tf.uint32)) ^ key)


# MirroredStrategy traces each replica in a thread of its own.
_current = threading.local()


@contextlib.contextmanager
def batch_places(places: BatchPlaces):
    """Says, while a training step is traced, where the batch's rows stand."""
    previous = getattr(_current, "places", None)
    _current.places = places
    try:
        yield
    finally:
        _current.places = previous


class GlobalBatchDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with masks drawn by place."""

    def call(self, inputs, training=False):
        current = getattr(_current, "places", None)
        if not training or self.rate == 0 or current is None:
            return super().call(inputs, training=training)
        # `noise_shape` (None, 1, 1, 1) drops whole images: drop-connect.
        noise_shape = self.noise_shape or [None] * len(inputs.shape)
        row = [
            size if noise is None else noise
            for size, noise in zip(
                inputs.shape[1:], noise_shape[1:], strict=True
            )
        ]
        draws = draw_bits(current, self.name, math.prod(row))
        scale = keep_scale(draws, self.rate, inputs.dtype)
        return inputs * tf.reshape(scale, [-1, *row])


def keep_scale(
    bits: tf.Tensor, rate: tf.Tensor | float, dtype: tf.DType
) -> tf.Tensor:
    """What to multiply by: 0 where dropped, else `1 / (1 - rate)`."""
    # Of 32 random bits, those below the rate are dropped.
    threshold = tf.cast(tf.cast(rate, tf.float64) * 2.0**32, tf.uint32)
    scale = tf.cast(1.0 / (1.0 - tf.cast(rate, tf.float64)), dtype)
    return tf.where(bits >= threshold, scale, tf.zeros([], dtype))


def draw_bits(
    places: BatchPlaces, layer_name: str, num_columns: int | tf.Tensor
) -> tf.Tensor:
    """Random bits of a place's row, the same wherever they are computed.

    `tf.random.stateless_uniform` gives other numbers when XLA compiles it, as
    a TPU always does, than when it does not, whatever its `alg`; a hash of
    integers gives the same. And a replica draws its own rows only.

    Args:
        places: rows of the batch.
        layer_name: each layer draws its own.
        num_columns: draws of a row.

    Returns:
        uint32 `[per_replica_batch, num_columns]`.
    """
    salt = zlib.crc32(layer_name.encode("utf-8"))
    rows = _mix(places.hashes ^ _mix(tf.constant(salt, tf.uint32)))
    if isinstance(num_columns, int) and num_columns == 1:
        return rows[:, tf.newaxis]
    columns = tf.cast(tf.range(num_columns), tf.uint32)
    columns = tf.constant(_GOLDEN, tf.uint32) * columns
    return _mix(rows[:, tf.newaxis] ^ columns)


def _mix(bits: tf.Tensor) -> tf.Tensor:
    """A bijection of uint32 whose outputs look random.

    "lowbias32" of Wellons, 2018, "Prospecting for Hash Functions",
    https://nullprogram.com/blog/2018/07/31/
    """
    shift = tf.bitwise.right_shift
    bits = bits ^ shift(bits, tf.constant(16, tf.uint32))
    bits = bits * tf.constant(0x7FEB352D, tf.uint32)
    bits = bits ^ shift(bits, tf.constant(15, tf.uint32))
    bits = bits * tf.constant(0x846CA68B, tf.uint32)
    return bits ^ shift(bits, tf.constant(16, tf.uint32))
