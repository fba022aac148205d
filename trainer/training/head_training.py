"""Trains heads on features, many of them, at the cost of their arithmetic.

`loop` traces a graph for every model that it trains, which takes longer than a
head takes to train. Here weights, rates and masks are arguments of one graph
per depth of the head, whatever its widths and hyperparameters. The steps are
those of `loop` on the head phase: the same initial weights, order, dropout
masks, losses, schedule and optimizer, to rounding.
"""

import dataclasses
import functools
from collections.abc import Callable

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
    hidden_units: tuple[int, ...] = ()
    head_activation: str = "relu"
    head_batch_norm: bool = False
    dropout: float = 0.0
    optimizer: str = "adamw"
    schedule: str = "cosine"
    learning_rate_scaling: str = "sqrt"
    warmup_fraction: float = 0.1
    weight_decay: float = 0.0
    gradient_clip_norm: float = 0.0
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    class_weights: str = "balanced"
    patience: int = 10
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """A head at its best epoch.

    Attributes:
        weights: as `classifier.build_head` orders them.
        logits: of the validation images, float32 `[images, K]`.
        history: `loss` and `val_loss` per epoch.
        best_epoch: from 1; 0 if no epoch was better than the initial weights.
    """

    weights: list[np.ndarray]
    logits: np.ndarray
    history: list[dict]
    best_epoch: int


def train_head(
    settings: HeadSettings,
    train_features: np.ndarray,
    train_labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    goes_on: Callable[[list[dict]], bool] = lambda history: True,
) -> TrainedHead:
    """Trains one head as the head phase of a run does.

    Args:
        settings: of the head and its training.
        train_features: float32 `[views, images, features]`.
        train_labels: int32 `[images]`.
        validation_features: float32 `[images, features]`.
        validation_labels: int32 `[images]`.
        goes_on: asked after every epoch with the history so far.

    Returns:
        The head of the epoch with the lowest validation loss.

    Raises:
        ValueError: if the loss is not finite.
    """
    s = settings
    num_views, num_images, num_features = train_features.shape
    steps_per_epoch = -(-num_images // s.global_batch_size)
    total_steps = steps_per_epoch * s.head_epochs
    peak = schedules.scale_for_batch(
        s.head_learning_rate, s.global_batch_size, s.learning_rate_scaling
    )
    rates = schedules.learning_rates(
        s.schedule, peak, int(s.warmup_fraction * total_steps), total_steps
    )
    rows = _stream(s, num_views, num_images, total_steps)
    flat_features = train_features.reshape(-1, num_features)
    weights = _initial_weights(
        s.num_classes,
        s.hidden_units,
        s.head_batch_norm,
        s.dropout > 0,
        s.seed,
    )
    state = (
        [tf.constant(w) for w in weights],
        [tf.zeros_like(w) for w in weights],
        [tf.zeros_like(w) for w in weights],
    )
    class_weights = np.ones(s.num_classes, np.float32)
    if s.class_weights == "balanced":
        counts = np.bincount(train_labels, minlength=s.num_classes)
        class_weights = losses.balanced_class_weights(counts.tolist())
    run_steps, predict = make_functions(
        len(s.hidden_units),
        s.head_batch_norm,
        classifier.num_logits(s.num_classes),
    )
    constants = _constants(s, class_weights)
    # As in `loop`, the initial weights are the first candidate.
    history, best_epoch, best_weights = [], 0, state[0]
    judged = (validation_features, validation_labels, constants)
    logits, best_loss = predict(best_weights, *judged)
    for epoch in range(1, s.head_epochs + 1):
        steps = np.arange(
            (epoch - 1) * steps_per_epoch, epoch * steps_per_epoch
        )
        used = rows[steps]
        state, loss = run_steps(
            state,
            tf.constant(flat_features[used]),
            tf.constant(train_labels[used % num_images]),
            tf.constant(steps, tf.int64),
            tf.constant(rates[steps]),
            constants,
        )
        found, val_loss = predict(state[0], *judged)
        if not (np.isfinite(loss) and np.isfinite(val_loss)):
            raise ValueError(
                f"The loss is not finite in epoch {epoch}: the learning rate "
                "is too high."
            )
        history.append({"loss": float(loss), "val_loss": float(val_loss)})
        if val_loss < best_loss:
            best_loss, best_epoch, best_weights = val_loss, epoch, state[0]
            logits = found
        if epoch - best_epoch >= s.patience or not goes_on(history):
            break
    return TrainedHead(
        [w.numpy() for w in best_weights], logits.numpy(), history, best_epoch
    )


def _stream(s: HeadSettings, num_views, num_images, total_steps):
    """Row of the flat features of each place, int64 `[steps, batch]`."""
    num_places = total_steps * s.global_batch_size
    num_epochs = -(-num_places // num_images)
    order = features.epoch_order(num_images, num_epochs, s.seed)
    views = np.arange(num_epochs, dtype=np.int64)[:, np.newaxis] % num_views
    rows = (views * num_images + order).reshape(-1)[:num_places]
    return rows.reshape(total_steps, s.global_batch_size)


# Heads that differ in what they are trained with begin alike.
@functools.lru_cache(maxsize=64)
def _initial_weights(
    num_classes: int,
    hidden_units: tuple[int, ...],
    batch_norm: bool,
    drops: bool,
    seed: int,
) -> list[np.ndarray]:
    keras.utils.set_random_seed(seed)
    # Dropout that drops nothing draws no seed of its own.
    head = classifier.build_head(
        num_classes, hidden_units, 0.5 * drops, batch_norm=batch_norm
    )
    return head.get_weights()


ACTIVATIONS = ("relu", "gelu", "swish")


def _constants(s: HeadSettings, class_weights: np.ndarray) -> dict:
    """Hyperparameters as tensors: other values take no other graph."""
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
        input_signature=[
            specs,
            tf.TensorSpec([None, None]),
            tf.TensorSpec([None], tf.int32),
            constants_spec,
        ]
    )
    def predict(weights, x, labels, constants):
        """Logits, and their loss as `loop.validation_metrics` has it."""
        logits, _ = _forward(depth, batch_norm, weights, x, constants)
        return logits, tf.reduce_mean(losses.cross_entropy(labels, logits))

    @tf.function(
        input_signature=[
            (specs, specs, specs),
            tf.TensorSpec([None, None, None]),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None]),
            constants_spec,
        ]
    )
    def run_steps(state, x, labels, numbers, rates, constants):
        total = tf.zeros([])
        for i in tf.range(tf.shape(numbers)[0]):
            state, loss = _step(
                (depth, batch_norm, trainable),
                state,
                (x[i], labels[i], numbers[i], rates[i]),
                constants,
            )
            total += loss
        return state, total / tf.cast(tf.shape(numbers)[0], tf.float32)

    return run_steps, predict


def _shapes(depth, batch_norm):
    """Of the weights of hidden layers, whose widths are left open."""
    return ([[None, None], [None]] + batch_norm * 4 * [[None]]) * depth


def _step(kind, state, batch, constants):
    """A training step; returns the new state and the mean loss."""
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
    return new, tf.reduce_mean(per_example)


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
