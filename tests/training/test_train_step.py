"""The training step against NumPy, on one device and on two replicas."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.samples import IMAGE_SIZE, make_strategy
from trainer.model import classifier, dropout
from trainer.training import distribution, train_step

BATCH = 8
STRATEGIES = pytest.mark.parametrize(
    "strategy_name", ["one_device", "mirrored"]
)


def make_batches(num_steps, num_features=3, seed=0):
    """Inputs float32 `[steps, BATCH, features]` and labels of each step."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(num_steps, BATCH, num_features))
    labels = generator.integers(0, 2, (num_steps, BATCH))
    return inputs.astype(np.float32), labels.astype(np.int32)


def make_iterator(strategy, inputs, labels, accumulation_steps):
    """Gives each replica its micro-batches, as the input pipelines do."""
    size = distribution.per_replica_batch_size(
        strategy, BATCH, accumulation_steps
    )
    places = np.tile(np.arange(BATCH, dtype=np.int64), len(inputs))
    dataset = tf.data.Dataset.from_tensor_slices(
        {
            "inputs": inputs.reshape(-1, inputs.shape[-1]),
            "labels": labels.reshape(-1),
            "places": places,
        }
    ).batch(size, drop_remainder=True)
    return iter(distribution.distribute(strategy, lambda *_: dataset))


def make_train_steps(
    strategy,
    model,
    optimizer,
    accumulation_steps=1,
    gradient_clip_norm=0.0,
):
    return train_step.make_train_function(
        strategy,
        train_step.ReplicaStep(
            model,
            optimizer,
            class_weights=np.ones(2, np.float32),
            label_smoothing=0.0,
            global_batch_size=BATCH,
            seed=0,
            gradient_clip_norm=gradient_clip_norm,
        ),
        accumulation_steps,
    )


def run_steps(
    strategy,
    model,
    optimizer,
    inputs,
    labels,
    accumulation_steps=1,
    gradient_clip_norm=0.0,
):
    """Trains on all batches; returns what the inner loop does."""
    optimizer.build(model.trainable_variables)
    train_steps = make_train_steps(
        strategy,
        model,
        optimizer,
        accumulation_steps,
        gradient_clip_norm,
    )
    return train_steps(
        make_iterator(strategy, inputs, labels, accumulation_steps),
        tf.constant(0, tf.int64),
        tf.constant(len(inputs), tf.int64),
        tf.constant(0.0),
    ).numpy()


def linear_model(num_features=3):
    inputs = keras.Input([num_features])
    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    return keras.Model(inputs, layer(inputs))


def dropout_model(num_features=3):
    """A model whose every random draw and layer is used."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([num_features])
    x = keras.layers.Dense(16, activation="relu")(inputs)
    x = dropout.GlobalBatchDropout(0.4, name="drop")(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def zero_weights_gradient(inputs, labels):
    """Of the mean cross-entropy of a linear model: p = 1/2 everywhere."""
    errors = (0.5 - labels) / len(labels)
    return errors @ inputs.astype(np.float64), errors.sum()


@STRATEGIES
@pytest.mark.parametrize(
    ("share", "loss_scaling", "accumulation_steps"),
    [(0.25, False, 2), (0.25, True, 1), (4.0, True, 2)],
)
def test_gradient_is_clipped_by_the_norm_of_its_sum(
    share, loss_scaling, accumulation_steps, strategy_name
):
    strategy = make_strategy(strategy_name)
    inputs, labels = make_batches(1)
    kernel_gradient, bias_gradient = zero_weights_gradient(inputs[0], labels[0])
    norm = np.sqrt(np.sum(kernel_gradient**2) + bias_gradient**2)
    with strategy.scope():
        model = linear_model()
        optimizer = keras.optimizers.SGD(1.0)
        if loss_scaling:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        run_steps(
            strategy,
            model,
            optimizer,
            inputs,
            labels,
            accumulation_steps,
            gradient_clip_norm=float(share * norm),
        )
    kernel, bias = model.get_weights()
    factor = min(1.0, share)
    np.testing.assert_allclose(
        kernel[:, 0], -factor * kernel_gradient, rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(bias, -factor * bias_gradient, 1e-5, 1e-7)


@STRATEGIES
def test_accumulated_micro_batches_train_as_the_whole_batch(strategy_name):
    inputs, labels = make_batches(5)

    def train(strategy, accumulation_steps):
        with strategy.scope():
            model = dropout_model()
            sums = run_steps(
                strategy,
                model,
                keras.optimizers.AdamW(0.01),
                inputs,
                labels,
                accumulation_steps,
            )
        return sums[:3], model.get_weights()

    sums, weights = train(make_strategy("one_device"), 1)
    assert sums[2] == 5 * BATCH
    for accumulation_steps in (2, 4):
        other_sums, other_weights = train(
            make_strategy(strategy_name), accumulation_steps
        )
        np.testing.assert_allclose(other_sums, sums, rtol=1e-5)
        for mine, theirs in zip(other_weights, weights, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy_name", "accumulation_steps"), [("mirrored", 1), ("mirrored", 2)]
)
def test_overflow_on_one_replica_skips_the_step_on_all(
    strategy_name, accumulation_steps
):
    strategy = make_strategy(strategy_name)
    inputs, labels = make_batches(3)
    # The weights are zero: the loss is finite, the scaled gradient of the last
    # image of the first step, on the last replica, is not.
    inputs[0, -1, 0] = 3e38
    with strategy.scope():
        model = linear_model()
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1.0)
        )
        sums = run_steps(
            strategy,
            model,
            optimizer,
            inputs[:1],
            labels[:1],
            accumulation_steps,
        )
        copies = [
            copy.numpy()
            for variable in model.trainable_variables
            for copy in strategy.experimental_local_results(variable.value)
        ]
        assert np.isfinite(sums).all()
        assert all((copy == 0).all() for copy in copies)
        assert float(optimizer.dynamic_scale.numpy()) == 2.0**14
        assert int(optimizer.iterations.numpy()) == 0
        run_steps(
            strategy,
            model,
            optimizer,
            inputs[1:2],
            labels[1:2],
            accumulation_steps,
        )
    kernel_gradient, _ = zero_weights_gradient(inputs[1], labels[1])
    for variable in model.trainable_variables[:1]:
        for copy in strategy.experimental_local_results(variable.value):
            np.testing.assert_allclose(
                copy.numpy()[:, 0], -kernel_gradient, rtol=1e-5
            )


def test_seconds_of_waiting_for_input_are_told():
    strategy = make_strategy("one_device")
    inputs, labels = make_batches(1)

    def wait():
        time.sleep(0.1)
        return np.float32(0.0)

    def delay(element):
        return tf.numpy_function(wait, [], tf.float32), element

    with strategy.scope():
        model, optimizer = linear_model(), keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
        train_steps = make_train_steps(strategy, model, optimizer)
        dataset = tf.data.Dataset.from_tensors(
            {
                "inputs": inputs[0],
                "labels": labels[0],
                "places": np.arange(BATCH, dtype=np.int64),
            }
        ).repeat()
        slow = dataset.map(delay).map(lambda _, element: element)
        waits = []
        for source in (dataset, slow):
            sums = train_steps(
                iter(strategy.experimental_distribute_dataset(source)),
                tf.constant(0, tf.int64),
                tf.constant(10, tf.int64),
                tf.constant(0.0),
            )
            waits.append(float(sums[4]))
    assert waits[0] < 0.5 < waits[1] < 2.0


def phase_model(phase):
    """The model of a phase, with features that do not vanish."""
    keras.utils.set_random_seed(0)
    drop = dropout.GlobalBatchDropout
    head = classifier.build_head(2, (8,), 0.3, drop)
    if phase == "synchronized":
        # What training from scratch adds, without the minute of compiling it.
        inputs = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 1])
        x = keras.layers.Conv2D(8, 3, strides=2)(inputs)
        x = keras.layers.BatchNormalization(synchronized=True)(x)
        x = drop(0.3, noise_shape=(None, 1, 1, 1), name="drop")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(1)(x))
    model = classifier.build_classifier(IMAGE_SIZE, 1, head, "none", drop)
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in norms:
        # Not 0: tiny variances of few values would magnify rounding.
        layer.momentum = 0.1
    pixels = np.random.default_rng(0).uniform(
        0, 255, (16, IMAGE_SIZE, IMAGE_SIZE, 1)
    )
    model(pixels, training=True)
    classifier.set_trainable(model, 6, train_batch_norm=False)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["fine_tune", "synchronized"])
def test_compiled_step_equals_the_uncompiled(phase, few_kinds):
    # XLA, as a TPU runs it: static shapes, no op that needs a host.
    generator = np.random.default_rng(1)
    inputs = generator.uniform(0, 255, (4, IMAGE_SIZE, IMAGE_SIZE, 1))
    batch = {
        "inputs": tf.constant(inputs, tf.float32),
        "labels": tf.constant([0, 1, 1, 0]),
        "places": tf.range(4, dtype=tf.int64),
    }
    model = phase_model(phase)
    start = model.get_weights()
    results = []
    for jit_compile in (False, True):
        model.set_weights(start)
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01, momentum=0.9)
        )
        optimizer.build(model.trainable_variables)
        step = train_step.ReplicaStep(
            model,
            optimizer,
            class_weights=np.array([0.5, 2.0], np.float32),
            label_smoothing=0.1,
            global_batch_size=4,
            seed=0,
            gradient_clip_norm=1.0,
        )
        compiled = tf.function(step, jit_compile=jit_compile)
        sums = compiled(batch, tf.constant(3, tf.int64)).numpy()
        results.append((sums, model.get_weights()))
    (sums, weights), (compiled_sums, compiled_weights) = results
    np.testing.assert_allclose(compiled_sums, sums, rtol=1e-5)
    for one, two in zip(weights, compiled_weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    moved = [np.any(a != b) for a, b in zip(start, weights, strict=True)]
    assert any(moved)
