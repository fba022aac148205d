"""Exponential moving averages of the weights that a phase trains.

They lie in a flatter part of the loss than the weights of any one step
(Polyak and Juditsky, 1992; Izmailov et al., 2018, "Averaging Weights Leads to
Wider Optima and Better Generalization", https://arxiv.org/abs/1803.05407), and
say more about a phase than its last batches do.
"""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf


class WeightAverages:
    """Averages of the weights of all layers that are trained.

    Attributes:
        variables: the averages, a part of every checkpoint.
    """

    def __init__(self, model: keras.Model, num_steps: float):
        """Begins with the weights as they are; in the scope of a strategy.

        Args:
            model: with the layers that are trained set so.
            num_steps: that the averages reach back, roughly.
        """
        self._weights = [
            weight.value
            for layer in model.layers
            if layer.trainable
            for weight in layer.weights
        ]
        self._decay = 1.0 - 1.0 / max(1.0, num_steps)
        self.variables = [
            tf.Variable(tf.convert_to_tensor(weight), trainable=False)
            for weight in self._weights
        ]

    def update(self, step: tf.Tensor) -> None:
        """Takes the weights after a step in; in the context of a replica.

        Args:
            step: int64 scalar, from 0. The first steps forget faster.
        """
        step = tf.cast(step, tf.float32)
        share = 1.0 - tf.minimum(self._decay, (1.0 + step) / (10.0 + step))

        def assign(average, weight, share):
            average.assign_add(share * (weight - average))

        def update_all(strategy, share):
            for average, weight in zip(
                self.variables, self._weights, strict=True
            ):
                strategy.extended.update(
                    average, assign, args=(weight, share), group=False
                )

        tf.distribute.get_replica_context().merge_call(
            update_all, args=(share,)
        )

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """The model has the averages meanwhile; outside of replicas."""
        trained = [weight.numpy() for weight in self._weights]
        self._assign([average.numpy() for average in self.variables])
        try:
            yield
        finally:
            self._assign(trained)

    def _assign(self, values):
        for weight, value in zip(self._weights, values, strict=True):
            weight.assign(value)
