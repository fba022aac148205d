import dataclasses
import random
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import config, run
from trainer.model import classifier, dropout, losses
from trainer.training import features, head_training, schedules

NUM_FEATURES = classifier.NUM_FEATURES
SETTINGS = dataclasses.replace(
    run.make_head_settings(
        dataclasses.asdict(config.TrainConfig(data_dir="d", job_dir="j")), 2
    ),
    head_epochs=4,
    global_batch_size=8,
    patience=9,
    weight_decay=1e-2,
    dropout=0.0,
)


@pytest.fixture(scope="module")
def data():
    """Features in two views and labels, for training and validation."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 22).astype(np.int32)
    validation_labels = rng.integers(0, 3, 13).astype(np.int32)
    centers = rng.normal(size=(3, NUM_FEATURES)).astype(np.float32)

    def draw(labels):
        noise = rng.normal(size=(len(labels), NUM_FEATURES))
        return (0.1 * centers[labels] + noise).astype(np.float16)

    views = [draw(labels), draw(labels)]
    return views, labels, draw(validation_labels), validation_labels


def of_classes(data, num_classes):
    """Arguments of `train_head` after the settings."""
    views, labels, validation, validation_labels = data
    last = num_classes - 1
    return (
        views,
        np.arange(len(labels)),
        np.minimum(labels, last),
        validation,
        np.minimum(validation_labels, last),
    )


def build_head(s, layer=keras.layers.Dropout):
    return classifier.build_head(
        s.num_classes,
        s.hidden_units,
        s.dropout,
        layer,
        s.head_activation,
        s.head_batch_norm,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_units": ()},
        {"hidden_units": (), "dropout": 0.3},
        {"hidden_units": (5, 3), "head_batch_norm": True},
        {"hidden_units": (5, 3), "dropout": 0.3, "num_classes": 3},
    ],
)
def test_head_begins_as_by_keras_whatever_other_threads_draw(changes):
    settings = dataclasses.replace(SETTINGS, seed=7, **changes)
    keras.utils.set_random_seed(7)
    expected = build_head(settings).get_weights()
    head_training._draw_weights.cache_clear()
    done = threading.Event()

    def upload():
        while not done.is_set():
            random.random()

    thread = threading.Thread(target=upload)
    thread.start()
    weights = head_training.initial_weights(settings)
    done.set()
    thread.join()
    assert len(weights) == len(expected)
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def train_by_keras(s, views, rows, labels, validation, validation_labels):
    """The same steps by Keras' layers and optimizers, one after the other.

    Returns:
        Losses in training and validation of each epoch, and the best weights.
    """
    keras.utils.set_random_seed(s.seed)
    head = build_head(s, dropout.GlobalBatchDropout)
    batch, num_images = s.global_batch_size, len(rows)
    steps_per_epoch = -(-num_images // batch)
    total_steps = steps_per_epoch * s.head_epochs
    rate = schedules.scale_for_batch(
        s.head_learning_rate, batch, s.learning_rate_scaling
    )
    warmup_steps = int(s.warmup_fraction * total_steps)
    optimizer = schedules.make_optimizer(
        s.optimizer,
        schedules.make_schedule(s.schedule, rate, warmup_steps, total_steps),
        s.weight_decay,
    )
    optimizer.build(head.trainable_variables)
    class_weights = np.ones(s.num_classes, np.float32)
    if s.class_weights == "balanced":
        counts = np.bincount(labels, minlength=s.num_classes).tolist()
        class_weights = losses.balanced_class_weights(counts)
    num_places = total_steps * batch
    order = features.epoch_order(num_images, s.head_epochs + 2, s.seed)
    stream = [
        (views[epoch % len(views)][rows[image]], labels[image])
        for epoch, images in enumerate(order)
        for image in images
    ][:num_places]

    def judge():
        logits = head(validation.astype(np.float32), training=False)
        loss = losses.cross_entropy(validation_labels, logits)
        return float(np.mean(loss)), head.get_weights()

    candidates, train_losses = [judge()], []
    for step in range(total_steps):
        inputs, targets = zip(
            *stream[step * batch : (step + 1) * batch], strict=True
        )
        places = dropout.BatchPlaces(
            s.seed,
            tf.constant(step, tf.int64),
            tf.range(batch, dtype=tf.int64),
        )
        with tf.GradientTape() as tape:
            with dropout.batch_places(places):
                logits = head(np.float32(inputs), training=True)
            per_example = losses.cross_entropy(
                np.array(targets), logits, s.label_smoothing, s.focal_gamma
            )
            loss = tf.reduce_mean(per_example * class_weights[list(targets)])
        gradients = tape.gradient(loss, head.trainable_variables)
        if s.gradient_clip_norm:
            gradients, _ = tf.clip_by_global_norm(
                gradients, s.gradient_clip_norm
            )
        optimizer.apply(gradients)
        train_losses.append(float(np.mean(per_example)))
        if (step + 1) % steps_per_epoch == 0:
            candidates.append(judge())
    epoch_losses = np.reshape(train_losses, (s.head_epochs, -1)).mean(axis=1)
    val_losses = [loss for loss, _ in candidates]
    return epoch_losses, val_losses[1:], candidates[np.argmin(val_losses)][1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_units": (7,), "dropout": 0.4, "seed": 5},
        {
            "hidden_units": (9, 5),
            "dropout": 0.2,
            "head_activation": "gelu",
            "head_batch_norm": True,
            "global_batch_size": 16,
            "label_smoothing": 0.1,
        },
        {
            "hidden_units": (6,),
            "head_activation": "swish",
            "optimizer": "sgd",
            "schedule": "constant",
            "warmup_fraction": 0.0,
            "class_weights": "none",
            "gradient_clip_norm": 0.05,
        },
        {"num_classes": 3, "focal_gamma": 2.0, "hidden_units": (4,)},
    ],
)
def test_head_is_trained_as_by_keras(data, changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    some = of_classes(data, settings.num_classes)
    epoch_losses, val_losses, weights = train_by_keras(settings, *some)
    trained = head_training.train_head(settings, *some)
    history = trained.history
    assert [row["step"] for row in history] == [
        -(-22 // settings.global_batch_size) * epoch for epoch in (1, 2, 3, 4)
    ]
    np.testing.assert_allclose(
        [row["loss"] for row in history], epoch_losses, rtol=1e-4
    )
    np.testing.assert_allclose(
        [row["val_loss"] for row in history], val_losses, rtol=1e-4
    )
    for found, expected in zip(trained.weights, weights, strict=True):
        difference = np.linalg.norm(found - expected)
        assert difference <= 1e-4 * np.linalg.norm(expected) + 1e-7
    head = build_head(settings)
    head.set_weights(trained.weights)
    np.testing.assert_allclose(
        head(some[3].astype(np.float32)), trained.logits, rtol=1e-4, atol=1e-5
    )


def test_features_read_in_pieces_give_the_same_bits(data, monkeypatch):
    some = of_classes(data, 2)
    whole = head_training.train_head(SETTINGS, *some)
    # One step at a time.
    monkeypatch.setattr(features, "_PIECE_BYTES", 1)
    pieces = head_training.train_head(SETTINGS, *some)
    for found, expected in zip(pieces.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert 0 < whole.history[-1]["accuracy"] <= 1
    assert pieces.history[0]["accuracy"] == whole.history[0]["accuracy"]


def test_rows_choose_the_images_that_are_trained_on(data):
    views, _, labels, *validation = of_classes(data, 2)
    rows = np.array([3, 20, 4, 11, 7, 0, 15, 9, 2])
    chosen = head_training.train_head(
        SETTINGS, views, rows, labels[rows], *validation
    )
    cut = head_training.train_head(
        SETTINGS,
        [view[rows] for view in views],
        np.arange(len(rows)),
        labels[rows],
        *validation,
    )
    for found, expected in zip(chosen.weights, cut.weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_heads_of_other_widths_and_values_take_no_other_graph(data):
    some = of_classes(data, 2)
    run_steps, _ = head_training.make_functions(1, False, 1)
    for units, drop, optimizer in ((3, 0.1, "sgd"), (50, 0.0, "adamw")):
        head_training.train_head(
            dataclasses.replace(
                SETTINGS,
                head_epochs=1,
                hidden_units=(units,),
                dropout=drop,
                optimizer=optimizer,
                global_batch_size=4,
                class_weights="none",
            ),
            *some,
        )
    assert run_steps.experimental_get_tracing_count() == 1


def test_patience_and_the_caller_end_the_training(data):
    some = of_classes(data, 2)
    settings = dataclasses.replace(
        SETTINGS, head_epochs=50, head_learning_rate=0.3, patience=3
    )
    trained = head_training.train_head(settings, *some)
    assert len(trained.history) == trained.best_epoch + 3 < 50
    if trained.best_epoch:
        best = min(row["val_loss"] for row in trained.history)
        assert trained.history[trained.best_epoch - 1]["val_loss"] == best
    asked = head_training.train_head(
        settings, *some, goes_on=lambda history: len(history) < 2
    )
    assert len(asked.history) == 2


@pytest.mark.parametrize("of_validation", [False, True])
def test_loss_that_is_not_finite_is_told(data, of_validation):
    settings, some = SETTINGS, of_classes(data, 2)
    if of_validation:
        *rest, features, labels = some
        some = (
            *rest,
            np.where(np.arange(len(labels))[:, None] == 1, np.nan, features),
            labels,
        )
    else:
        settings = dataclasses.replace(
            SETTINGS, optimizer="sgd", head_learning_rate=1e20
        )
    with pytest.raises(ValueError, match="is not finite in epoch 1: lower"):
        head_training.train_head(settings, *some)
