import dataclasses

import keras
import numpy as np
import pytest

from tests.conftest import make_strategy
from trainer.model import classifier, dropout, losses
from trainer.training import (
    checkpoints,
    distribution,
    features,
    head_training,
    loop,
    schedules,
    train_step,
)

NUM_FEATURES = classifier.NUM_FEATURES
SETTINGS = head_training.HeadSettings(
    num_classes=2,
    head_epochs=4,
    global_batch_size=8,
    head_learning_rate=3e-3,
    patience=9,
    weight_decay=1e-2,
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
        return (0.1 * centers[labels] + noise).astype(np.float32)

    views = np.stack([draw(labels), draw(labels)])
    return views, labels, draw(validation_labels), validation_labels


def of_classes(data, num_classes):
    views, labels, validation, validation_labels = data
    last = num_classes - 1
    return (
        views,
        np.minimum(labels, last),
        validation,
        np.minimum(validation_labels, last),
    )


def train_by_the_loop(s, data, directory):
    """The head phase as `phases` runs it; its history and best weights."""
    views, labels, validation, validation_labels = data
    strategy = make_strategy("one_device")
    with strategy.scope():
        keras.utils.set_random_seed(s.seed)
        head = classifier.build_head(
            s.num_classes,
            s.hidden_units,
            s.dropout,
            dropout.GlobalBatchDropout,
            s.head_activation,
            s.head_batch_norm,
        )
        steps_per_epoch = -(-len(labels) // s.global_batch_size)
        total_steps = steps_per_epoch * s.head_epochs
        peak = schedules.scale_for_batch(
            s.head_learning_rate, s.global_batch_size, s.learning_rate_scaling
        )
        optimizer = schedules.make_optimizer(
            s.optimizer,
            schedules.make_schedule(
                s.schedule,
                peak,
                int(s.warmup_fraction * total_steps),
                total_steps,
            ),
            s.weight_decay,
        )
        optimizer.build(head.trainable_variables)
        weights = np.ones(s.num_classes, np.float32)
        if s.class_weights == "balanced":
            weights = losses.balanced_class_weights(
                np.bincount(labels, minlength=s.num_classes).tolist()
            )
        replica_step = train_step.ReplicaStep(
            head,
            optimizer,
            class_weights=weights,
            label_smoothing=s.label_smoothing,
            focal_gamma=s.focal_gamma,
            global_batch_size=s.global_batch_size,
            seed=s.seed,
            gradient_clip_norm=s.gradient_clip_norm,
        )
        phase = loop.Phase(
            name="head",
            model=head,
            optimizer=optimizer,
            train_steps=train_step.make_train_function(strategy, replica_step),
            make_dataset=lambda start: distribution.distribute(
                strategy,
                lambda *_: features.make_feature_dataset(
                    views,
                    labels,
                    total_steps=total_steps,
                    global_batch_size=s.global_batch_size,
                    per_replica_batch_size=s.global_batch_size,
                    seed=s.seed,
                ),
            ),
            validate=lambda: loop.validation_metrics(
                validation_labels, head(validation, training=False).numpy()
            ),
            steps_per_epoch=steps_per_epoch,
            num_epochs=s.head_epochs,
            patience=s.patience,
            steps_per_execution=4,
        )
        checkpoint = checkpoints.PhaseCheckpoint(
            str(directory), head, optimizer
        )
        history = loop.run_phase(phase, checkpoint, lambda row: None)
    return history, head.get_weights()


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
def test_head_is_trained_as_by_the_loop(data, changes, tmp_path):
    settings = dataclasses.replace(SETTINGS, **changes)
    some = of_classes(data, settings.num_classes)
    history, weights = train_by_the_loop(settings, some, tmp_path)
    trained = head_training.train_head(settings, *some)
    assert len(trained.history) == len(history) == 4
    for mine, theirs in zip(trained.history, history, strict=True):
        for name, value in mine.items():
            assert value == pytest.approx(theirs[name], rel=1e-4), name
    for mine, theirs in zip(trained.weights, weights, strict=True):
        difference = np.linalg.norm(mine - theirs)
        assert difference <= 1e-4 * np.linalg.norm(theirs) + 1e-7
    head = classifier.build_head(
        settings.num_classes,
        settings.hidden_units,
        settings.dropout,
        activation=settings.head_activation,
        batch_norm=settings.head_batch_norm,
    )
    head.set_weights(trained.weights)
    np.testing.assert_allclose(
        head(some[2]), trained.logits, rtol=1e-4, atol=1e-5
    )


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


def test_loss_that_is_not_finite_is_told(data):
    settings = dataclasses.replace(
        SETTINGS, optimizer="sgd", head_learning_rate=1e20
    )
    with pytest.raises(ValueError, match="The loss is not finite in epoch 1"):
        head_training.train_head(settings, *of_classes(data, 2))
