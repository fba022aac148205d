"""Trains heads on features, many of them, at the cost of their arithmetic.

The head phase of a run and the trials of a sweep train here. `loop` traces a
graph for every model that it trains, which takes longer than a head takes to
train. Here weights, rates and masks are arguments of one graph per depth of
the head, whatever its widths and hyperparameters.
"""

import dataclasses
import functools
import itertools
import random
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.model import classifier, dropout, losses
from trainer.training import features, schedules

# Of Keras' AdamW and BatchNormalization.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7
_BATCH_NORM_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class HeadSettings:
    """What a head is and how it is trained; names as in `TrainConfig`."""

    num_classes: int
    head_epochs: int
    global_batch_size: int
    head_learning_rate: float
    hidden_units: tuple[int, ...]
    head_activation: str
    head_batch_norm: bool
    dropout: float
    optimizer: str
    schedule: str
    learning_rate_scaling: str
    warmup_fraction: float
    weight_decay: float
    gradient_clip_norm: float
    label_smoothing: float
    focal_gamma: float
    class_weights: str
    patience: int
    seed: int


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A head at its best epoch.

    Attributes:
        weights: as `classifier.build_head` orders them.
        history: of each epoch `step`, `loss`, `accuracy`, `val_loss`,
            `learning_rate`, `images_per_second` and `seconds`.
        epoch_logits: of the validation images before the first epoch and
            after each, float32 `[images, K]`.
        best_epoch: from 1; 0 if no epoch was better than the initial weights.
    """

    weights: list[np.ndarray]
    history: list[dict]
    epoch_logits: list[np.ndarray]
    best_epoch: int

    @property
    def logits(self) -> np.ndarray:
        """Of the validation images at the best epoch, float32 `[images, K]`."""
        return self.epoch_logits[self.best_epoch]


def train_head(
    settings: HeadSettings,
    views: Sequence[np.ndarray],
    rows: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    goes_on: Callable[[list[dict]], bool] = lambda history: True,
) -> TrainedHead:
    """Trains one head on view `e mod V` in epoch `e`.

    Args:
        settings: of the head and its training.
        views: each float16 `[rows, features]`; read a piece at a time.
        rows: int64 `[images]`, the rows of each view to train on.
        labels: int32 `[images]`, of those rows.
        validation_features: float16 `[validation images, features]`.
        validation_labels: int32 `[validation images]`.
        goes_on: asked after every epoch with the history so far.

    Returns:
        The head of the epoch with the lowest validation loss.

    Raises:
        ValueError: if the loss is not finite.
    """
    s = settings
    steps_per_epoch = -(-len(rows) // s.global_batch_size)
    rates = _learning_rates(s, steps_per_epoch * s.head_epochs)
    stream = features.Stream(
        views, rows, labels, len(rates), s.global_batch_size, s.seed
    )
    run_steps, predict = make_functions(
        len(s.hidden_units),
        s.head_batch_norm,
        classifier.num_logits(s.num_classes),
    )
    constants = _constants(s, labels)
    judged = (
        tf.constant(np.asarray(validation_features, np.float16)),
        tf.constant(validation_labels),
        constants,
    )
    weights = [tf.constant(w) for w in initial_weights(s)]
    state = (weights, *([tf.zeros_like(w) for w in weights] for _ in "mv"))
    # The initial weights are the first candidate: training may make all worse.
    logits, best_loss = predict(weights, *judged)
    history, epoch_logits, best_epoch = [], [logits.numpy()], 0
    for epoch in range(1, s.head_epochs + 1):
        start = time.monotonic()
        last_step = epoch * steps_per_epoch
        sums = np.zeros(2)
        for steps, *batches in stream.pieces(
            last_step - steps_per_epoch, last_step
        ):
            state, piece_sums = run_steps(
                state, *batches, steps, tf.constant(rates[steps]), constants
            )
            sums += piece_sums.numpy()
        logits, val_loss = predict(state[0], *judged)
        if not (np.isfinite(sums[0]) and np.isfinite(val_loss)):
            raise ValueError(
                f"The loss of the head is not finite in epoch {epoch}: lower "
                "the learning rate."
            )
        num_images = steps_per_epoch * s.global_batch_size
        seconds = time.monotonic() - start
        row = {"step": last_step, "loss": sums[0] / num_images}
        row |= {"accuracy": sums[1] / num_images, "val_loss": float(val_loss)}
        row["learning_rate"] = float(rates[last_step - 1])
        row |= {"images_per_second": num_images / seconds, "seconds": seconds}
        history.append(row)
        epoch_logits.append(logits.numpy())
        if val_loss < best_loss:
            best_loss, best_epoch, weights = val_loss, epoch, state[0]
        if epoch - best_epoch >= s.patience or not goes_on(history):
            break
    return TrainedHead(
        [w.numpy() for w in weights], history, epoch_logits, best_epoch
    )


def _learning_rates(s: HeadSettings, num_steps: int) -> np.ndarray:
    peak = schedules.scale_for_batch(
        s.head_learning_rate, s.global_batch_size, s.learning_rate_scaling
    )
    return schedules.learning_rates(
        s.schedule, peak, int(s.warmup_fraction * num_steps), num_steps
    )


def initial_weights(s: HeadSettings) -> list[np.ndarray]:
    """What an untrained head begins with, as `build_head` orders them."""
    # Dropout that drops nothing draws no seed of its own.
    return _draw_weights(
        s.num_classes, s.hidden_units, s.head_batch_norm, s.dropout > 0, s.seed
    )


# Heads that differ in what they are trained with begin alike.
@functools.lru_cache(maxsize=64)
def _draw_weights(num_classes, hidden_units, batch_norm, drops, seed):
    """What a `classifier.build_head` has after `keras.utils.set_random_seed`.

    Keras draws its seeds from Python's global generator, and so do uploads to
    buckets in other threads: beside one, a head would begin otherwise.
    """
    draw_seed = functools.partial(random.Random(seed).randint, 1, 10**9)
    widths = (*hidden_units, classifier.num_logits(num_classes))
    weights = []
    for inputs, units in itertools.pairwise((classifier.NUM_FEATURES, *widths)):
        if drops:
            draw_seed()  # of the Dropout in front
        draw = keras.initializers.GlorotUniform(draw_seed())
        zeros, ones = np.zeros(units, np.float32), np.ones(units, np.float32)
        weights += [draw([inputs, units]).numpy(), zeros]
        if batch_norm:
            weights += [ones, zeros, zeros, ones]
    # There is none behind the logits.
    return weights[:-4] if batch_norm else weights


ACTIVATIONS = ("relu", "gelu", "swish")


def _constants(s: HeadSettings, labels: np.ndarray) -> dict:
    """Hyperparameters as tensors: other values take no other graph."""
    class_weights = np.ones(s.num_classes, np.float32)
    if s.class_weights == "balanced":
        counts = np.bincount(labels, minlength=s.num_classes)
        class_weights = losses.balanced_class_weights(counts.tolist())
    return {
        "seed": tf.constant(s.seed, tf.uint32),
        "activation": tf.constant(
            [float(s.head_activation == name) for name in ACTIVATIONS]
        ),
        "dropout": tf.constant(s.dropout, tf.float64),
        "is_sgd": tf.constant(s.optimizer == "sgd"),
        "weight_decay": tf.constant(s.weight_decay, tf.float32),
        # Of a gradient of finite norm, the largest float clips nothing.
        "clip_norm": tf.constant(s.gradient_clip_norm or 1e30, tf.float32),
        "label_smoothing": tf.constant(s.label_smoothing, tf.float32),
        "focal_gamma": tf.constant(s.focal_gamma, tf.float32),
        "class_weights": tf.constant(class_weights),
    }


def _forward(depth, batch_norm, weights, x, constants, places=None):
    """Logits, and the statistics that batch norm moves to while training."""

    def drop(x, name):
        if places is None:
            return x
        bits = dropout.draw_bits(places, name, tf.shape(x)[1])
        return x * dropout.keep_scale(bits, constants["dropout"], tf.float32)

    x = tf.cast(x, tf.float32)
    remaining = list(weights)
    moved = []
    for i in range(depth):
        kernel, bias = remaining.pop(0), remaining.pop(0)
        x = drop(x, f"head_dropout_{i}") @ kernel + bias
        if batch_norm:
            scale, offset, mean, variance = (remaining.pop(0) for _ in range(4))
            if places is not None:
                momentum = classifier.BATCH_NORM_MOMENTUM
                batch_mean, batch_variance = tf.nn.moments(x, [0])
                moved += [
                    mean * momentum + batch_mean * (1 - momentum),
                    variance * momentum + batch_variance * (1 - momentum),
                ]
                mean, variance = batch_mean, batch_variance
            x = tf.nn.batch_normalization(
                x, mean, variance, offset, scale, _BATCH_NORM_EPSILON
            )
        chosen = constants["activation"]
        # All three cost less than a graph of their own for each.
        x = (
            chosen[0] * tf.nn.relu(x)
            + chosen[1] * keras.activations.gelu(x)
            + chosen[2] * tf.nn.silu(x)
        )
    kernel, bias = remaining
    return drop(x, "head_dropout") @ kernel + bias, moved


@functools.cache
def make_functions(depth: int, batch_norm: bool, num_logits: int):
    """Compiled steps and predictions, one graph for all heads of this depth."""
    # Kernel and bias, and of batch norm scale and offset but no statistics.
    hidden = [True, True] + batch_norm * [True, True, False, False]
    trainable = hidden * depth + [True, True]
    specs = [tf.TensorSpec(shape) for shape in _shapes(depth, batch_norm)]
    specs += [tf.TensorSpec([None, num_logits]), tf.TensorSpec([num_logits])]
    constants_spec = {
        "seed": tf.TensorSpec([], tf.uint32),
        "activation": tf.TensorSpec([len(ACTIVATIONS)]),
        "dropout": tf.TensorSpec([], tf.float64),
        "is_sgd": tf.TensorSpec([], tf.bool),
        "weight_decay": tf.TensorSpec([]),
        "clip_norm": tf.TensorSpec([]),
        "label_smoothing": tf.TensorSpec([]),
        "focal_gamma": tf.TensorSpec([]),
        "class_weights": tf.TensorSpec([None]),
    }

    @tf.function(
        autograph=False,
        input_signature=[
            specs,
            tf.TensorSpec([None, None], tf.float16),
            tf.TensorSpec([None], tf.int32),
            constants_spec,
        ],
    )
    def predict(weights, x, labels, constants):
        """Logits, and their loss as `loop.validation_metrics` has it."""
        logits, _ = _forward(depth, batch_norm, weights, x, constants)
        return logits, tf.reduce_mean(losses.cross_entropy(labels, logits))

    @tf.function(
        autograph=False,
        input_signature=[
            (specs, specs, specs),
            tf.TensorSpec([None, None, None], tf.float16),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None]),
            constants_spec,
        ],
    )
    def run_steps(state, x, labels, numbers, rates, constants):
        """Steps; returns the new state, and the sums of losses and of hits."""

        def step(i, state, total):
            state, sums = _step(
                (depth, batch_norm, trainable),
                state,
                (x[i], labels[i], numbers[i], rates[i]),
                constants,
            )
            return i + 1, state, total + sums

        return tf.while_loop(
            lambda i, *_: i < tf.shape(numbers)[0],
            step,
            (0, state, tf.zeros([2])),
        )[1:]

    return run_steps, predict


def _shapes(depth, batch_norm):
    """Of the weights of hidden layers, whose widths are left open."""
    return ([[None, None], [None]] + batch_norm * 4 * [[None]]) * depth


def _step(kind, state, batch, constants):
    """A training step; returns the new state, and losses and hits summed."""
    depth, batch_norm, trainable = kind
    x, labels, number, rate = batch
    weights, first, second = state
    places = dropout.BatchPlaces(
        constants["seed"],
        number,
        tf.range(tf.size(labels, tf.int64), dtype=tf.int64),
    )
    variables = [w for w, t in zip(weights, trainable, strict=True) if t]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        logits, moved = _forward(
            depth, batch_norm, weights, x, constants, places
        )
        per_example = losses.cross_entropy(
            labels,
            logits,
            constants["label_smoothing"],
            constants["focal_gamma"],
        )
        loss = tf.reduce_mean(
            per_example * tf.gather(constants["class_weights"], labels)
        )
    gradients = tape.gradient(loss, variables)
    gradients, _ = tf.clip_by_global_norm(gradients, constants["clip_norm"])
    new = ([], [], [])
    for *old, is_trained in zip(weights, first, second, trainable, strict=True):
        if is_trained:
            parts = _update(*old, gradients.pop(0), number, rate, constants)
        else:
            parts = (moved.pop(0), *old[1:])
        for into, part, before in zip(new, parts, old, strict=True):
            into.append(tf.ensure_shape(part, before.shape))
    hits = losses.is_correct(labels, logits)
    return new, tf.stack([tf.reduce_sum(per_example), tf.reduce_sum(hits)])


def _update(weight, first, second, gradient, number, rate, constants):
    """A step of Keras' SGD with Nesterov momentum, or of its AdamW."""
    weight = weight - weight * constants["weight_decay"] * rate

    def sgd():
        momentum = schedules.SGD_MOMENTUM
        velocity = first * momentum - gradient * rate
        step = velocity * momentum - gradient * rate
        return weight + step, velocity, second

    def adamw():
        time = tf.cast(number + 1, tf.float32)
        m = first + (gradient - first) * (1.0 - _BETA_1)
        v = second + (tf.square(gradient) - second) * (1.0 - _BETA_2)
        alpha = (
            rate
            * tf.sqrt(1.0 - tf.pow(_BETA_2, time))
            / (1.0 - tf.pow(_BETA_1, time))
        )
        return weight - m * alpha / (tf.sqrt(v) + _EPSILON), m, v

    return tf.cond(constants["is_sgd"], sgd, adamw)
