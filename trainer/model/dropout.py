"""Dropout whose mask does not depend on how a batch is spread over replicas.

Keras draws a mask of the replica's shape from the replica's generator, so two
replicas drop other units than one does. Here the mask of the whole global
batch is drawn from (seed, step, layer), and a replica takes the rows of its
own images. The layer serves training only: a saved model holds Keras' own
`Dropout`, which is the same at inference.
"""

import contextlib
import dataclasses
import threading
import zlib

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class BatchPlaces:
    """Where the rows of a replica's batch stand in the global batch.

    Attributes:
        seed: of the run.
        step: int64 scalar.
        places: int64 `[per_replica_batch]`, in [0, global_batch_size).
        global_batch_size: static.
    """

    seed: int
    step: tf.Tensor
    places: tf.Tensor
    global_batch_size: int


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
    """`keras.layers.Dropout` with masks drawn for the global batch."""

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
        salt = zlib.crc32(self.name.encode("utf-8"))
        uniform = tf.random.stateless_uniform(
            [current.global_batch_size, *row],
            seed=tf.stack(
                [tf.cast(current.seed * 2**32 + salt, tf.int64), current.step]
            ),
        )
        keep = tf.gather(uniform, current.places) >= self.rate
        return tf.where(keep, inputs / (1.0 - self.rate), 0)
