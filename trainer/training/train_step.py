"""The training step and the compiled loops over it.

A step computes the gradient of its share of the global batch on every
replica, sums it over all of them, clips the sum and applies it.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer.model import dropout, losses


class ReplicaStep:
    """One replica's part of a training step; holds no op that needs a host."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        class_weights: np.ndarray,
        label_smoothing: float,
        global_batch_size: int,
        seed: int,
        focal_gamma: float = 0.0,
        gradient_clip_norm: float = 0.0,
    ):
        """Ties a model to what a step of it needs.

        Args:
            model: inputs -> float32 logits `[per_replica_batch, K]`.
            optimizer: built on the trainable variables of `model`.
            class_weights: float32 `[classes]`, multiply the losses.
            label_smoothing: see `losses.cross_entropy`.
            global_batch_size: images per step, over all replicas.
            seed: of the dropout masks.
            focal_gamma: see `losses.cross_entropy`.
            gradient_clip_norm: largest global norm of the summed gradient; 0
                does not clip.
        """
        self.variables = model.trainable_variables
        self._model = model
        self._optimizer = optimizer
        self._class_weights = tf.constant(class_weights)
        self._label_smoothing = label_smoothing
        self._focal_gamma = focal_gamma
        self._global_batch_size = global_batch_size
        self._seed = seed
        self._gradient_clip_norm = gradient_clip_norm
        _take_summed_gradients(optimizer)

    def __call__(self, batch: dict, step: tf.Tensor) -> tf.Tensor:
        """Computes and applies; returns the sums of `gradients`."""
        gradients, sums = self.gradients(batch, step)
        self.apply(gradients)
        return sums

    def gradients(
        self, batch: dict, step: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """This replica's gradient, not yet summed over the replicas.

        Args:
            batch: `inputs`, `labels` int32 and `places` int64
                `[per_replica_batch]`.
            step: int64 scalar.

        Returns:
            The gradient of each trainable variable, times the loss scale if
            the optimizer has one; and float32 `[3]`: the sum of the losses,
            of the correct predictions, and the number of images.
        """
        labels = batch["labels"]
        places = dropout.BatchPlaces(self._seed, step, batch["places"])
        with tf.GradientTape() as tape:
            with dropout.batch_places(places):
                logits = self._model(batch["inputs"], training=True)
            per_example_loss = losses.cross_entropy(
                labels, logits, self._label_smoothing, self._focal_gamma
            )
            # Gradients are summed over replicas: divide by the global batch.
            loss = tf.nn.compute_average_loss(
                per_example_loss * tf.gather(self._class_weights, labels),
                global_batch_size=self._global_batch_size,
            )
            loss = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.variables)
        correct = losses.is_correct(labels, logits)
        sums = tf.stack(
            [
                tf.reduce_sum(per_example_loss),
                tf.reduce_sum(correct),
                tf.cast(tf.size(labels), tf.float32),
            ]
        )
        return gradients, sums

    def apply(self, gradients: list[tf.Tensor]) -> None:
        """Sums over the replicas, clips and updates the variables.

        All replicas see the same sum: they clip alike, and under loss scaling
        an overflow on one of them skips the step on all.
        """
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self._gradient_clip_norm:
            # Under loss scaling gradients are a multiple of the true ones.
            gradients, _ = tf.clip_by_global_norm(
                gradients,
                self._optimizer.scale_loss(
                    tf.constant(self._gradient_clip_norm)
                ),
            )
        self._optimizer.apply_gradients(
            zip(gradients, self.variables, strict=True)
        )


def _take_summed_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Keeps an optimizer from summing gradients over the replicas again.

    Keras 3 sums inside, after `global_clipnorm` and after loss scaling looked
    for an overflow: both would see one replica's gradient only. It has no
    switch as `experimental_aggregate_gradients` was, so the method that sums
    is replaced.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(inner, "_all_reduce_sum_gradients"):
        raise ValueError(
            f"Keras {keras.__version__} sums gradients in a way that Lightbox "
            "does not know: install Keras 3.15."
        )
    inner._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


def make_train_function(
    strategy: tf.distribute.Strategy,
    replica_step: ReplicaStep,
    accumulation_steps: int = 1,
    measures_waiting: bool = True,
) -> Callable:
    """Makes the compiled inner loop; call it in the scope of the strategy.

    Args:
        strategy: that the model and its optimizer were created under.
        replica_step: what each replica does.
        accumulation_steps: elements of the data set that make up one step:
            their gradients are added up before they are applied.
        measures_waiting: False leaves the clock alone, which TensorFlow does
            not allow to be read when only deterministic ops are.

    Returns:
        Function of an iterator over `inputs`, `labels` and `places`, the first
        step (int64 scalar), the number of steps (int64 scalar) and whether
        this worker is to stop (float32 scalar, 1 or 0). It returns float32
        `[5]`: summed over all workers loss, correct predictions, images and a
        number that is positive if any worker is to stop; and the seconds that
        this worker waited for input, NaN if not measured.
    """
    next_batch = _timed_next if measures_waiting else _untimed_next

    def run_whole_step(iterator, step, stop, done):
        batch, waited = next_batch(iterator, done)
        replica_sums = strategy.run(
            lambda batch, step, stop: _append(replica_step(batch, step), stop),
            args=(batch, step, stop),
        )
        sums = strategy.reduce("SUM", replica_sums, axis=None)
        return _append(sums, waited)

    if accumulation_steps > 1:
        run_step = _make_accumulating_step(
            strategy, replica_step, accumulation_steps, next_batch
        )
    else:
        run_step = run_whole_step

    # AutoGraph would rewrite all that is called, which takes longer than to
    # trace it.
    @tf.function(autograph=False)
    def train_steps(iterator, first_step, num_steps, stop):
        return _repeat(
            lambda i, sums: run_step(iterator, first_step + i, stop, sums),
            num_steps,
        )

    return train_steps


def _make_accumulating_step(
    strategy, replica_step, accumulation_steps, next_batch
):
    # A sum of each replica's own, zero between steps: no part of a checkpoint.
    accumulators = [
        tf.Variable(
            tf.zeros(variable.shape, variable.dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
        for variable in replica_step.variables
    ]

    def accumulate(batch, step, stop):
        gradients, sums = replica_step.gradients(batch, step)
        for accumulator, gradient in zip(accumulators, gradients, strict=True):
            accumulator.assign_add(gradient)
        return _append(sums, stop)

    def apply():
        gradients = [tf.identity(a) for a in accumulators]
        replica_step.apply(gradients)
        for accumulator in accumulators:
            accumulator.assign(tf.zeros_like(accumulator))

    def run_step(iterator, step, stop, done):
        def add_up(_, sums):
            with tf.control_dependencies([done]):
                batch, waited = next_batch(iterator, sums)
            replica_sums = strategy.run(accumulate, args=(batch, step, stop))
            reduced = strategy.reduce("SUM", replica_sums, axis=None)
            return _append(reduced, waited)

        sums = _repeat(add_up, accumulation_steps)
        strategy.run(apply)
        return sums

    return run_step


def _repeat(function, times):
    """The sum, float32 `[5]`, of what `function(i, sum so far)` returns."""
    times = tf.cast(times, tf.int64)
    return tf.while_loop(
        lambda i, _: i < times,
        lambda i, sums: (i + 1, sums + function(i, sums)),
        (tf.zeros([], tf.int64), tf.zeros([5])),
    )[1]


def _append(sums, value):
    return tf.concat([sums, [value]], axis=0)


def _timed_next(iterator, done):
    """The next batch, and the seconds waited for it after `done`."""
    with tf.control_dependencies([done]):
        start = tf.timestamp()
    with tf.control_dependencies([start]):
        batch = next(iterator)
    parts = tf.nest.flatten(batch, expand_composites=True)
    with tf.control_dependencies(parts):
        waited = tf.timestamp() - start
    return batch, tf.cast(waited, tf.float32)


def _untimed_next(iterator, done):
    del done
    return next(iterator), tf.constant(float("nan"))
