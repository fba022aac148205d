import dataclasses
import itertools
import multiprocessing
import os
import resource
from concurrent import futures

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import quick
from tests.samples import IMAGE_SIZE, make_strategy
from trainer import startup
from trainer.data import input_pipeline
from trainer.training import (
    checkpoints,
    distribution,
    loop,
    preemption,
    profiling,
    train_step,
)


def linear_model(num_features=6, num_logits=1):
    inputs = keras.Input([num_features])
    layer = keras.layers.Dense(num_logits, kernel_initializer="zeros")
    return keras.Model(inputs, layer(inputs))


def feature_phase(
    strategy,
    directory,
    num_epochs,
    patience=99,
    accumulation_steps=1,
    steps_per_epoch=3,
    **overrides,
):
    """A phase of a linear model on random features."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(11, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    model = linear_model()
    optimizer = keras.optimizers.AdamW(0.05)
    optimizer.build(model.trainable_variables)
    per_replica = distribution.per_replica_batch_size(
        strategy, 4, accumulation_steps
    )

    def make_dataset(start_step):
        places = np.arange(start_step * 4, steps_per_epoch * num_epochs * 4)
        dataset = tf.data.Dataset.from_tensor_slices(places).map(
            lambda place: {
                "inputs": tf.gather(x, place * 5 % 11),
                "labels": tf.gather(y, place * 5 % 11),
                "places": place % 4,
            }
        )
        dataset = dataset.batch(per_replica, drop_remainder=True)
        return distribution.distribute(strategy, lambda *_: dataset)

    arguments = {
        "name": "head",
        "model": model,
        "optimizer": optimizer,
        "train_steps": train_step.make_train_function(
            strategy,
            train_step.ReplicaStep(
                model,
                optimizer,
                class_weights=np.ones(2, np.float32),
                label_smoothing=0.0,
                global_batch_size=4,
                seed=0,
            ),
            accumulation_steps,
        ),
        "make_dataset": make_dataset,
        "validate": lambda: loop.validate(y, model(x).numpy()),
        "steps_per_epoch": steps_per_epoch,
        "num_epochs": num_epochs,
        "patience": patience,
        "steps_per_execution": 2,
        **overrides,
    }
    phase = loop.Phase(**arguments)
    checkpoint = checkpoints.PhaseCheckpoint(str(directory), model, optimizer)
    return phase, checkpoint, (x, y)


@pytest.mark.parametrize("strategy_name", ["one_device", "mirrored"])
def test_one_step_equals_hand_computed_gradient(strategy_name, tmp_path):
    strategy = make_strategy(strategy_name)
    with strategy.scope():
        phase, _, (x, y) = feature_phase(strategy, tmp_path, 1)
        model = linear_model()
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(model.trainable_variables)
        weights = np.array([0.5, 3.0], np.float32)
        step = train_step.make_train_function(
            strategy,
            train_step.ReplicaStep(
                model,
                optimizer,
                class_weights=weights,
                label_smoothing=0.0,
                global_batch_size=4,
                seed=0,
            ),
        )
        one = tf.constant(1, tf.int64)
        sums = step(
            iter(phase.make_dataset(0)), one * 0, one, tf.constant(0.0)
        ).numpy()[:4]
    rows = np.array([0, 5, 10, 4])
    images, labels = x[rows].astype(np.float64), y[rows]
    # Zero weights: p = 1/2, d loss / d z = (1/2 - y) w_y / 4.
    errors = (0.5 - labels) * weights[labels] / 4
    np.testing.assert_allclose(
        model.get_weights()[0][:, 0], -(errors @ images), rtol=1e-5
    )
    np.testing.assert_allclose(sums, [4 * np.log(2), labels.sum(), 4, 0], 1e-5)


def test_phase_learns_and_keeps_best_weights(tmp_path):
    strategy = make_strategy("one_device")
    with strategy.scope():
        phase, checkpoint, _ = feature_phase(strategy, tmp_path, 20)
        rows = []
        history = loop.run_phase(phase, checkpoint, rows.append)
    assert history == rows
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    assert [row["step"] for row in rows] == list(range(3, 61, 3))
    assert min(row["val_loss"] for row in rows) < 0.6 * np.log(2)
    for row in rows:  # of three steps of four images
        assert row["images_per_second"] * row["seconds"] == pytest.approx(12)
        assert 0 < row["input_wait_share"] < 1
    validation, losses = phase.validate()
    kept = rows[checkpoint.progress.best_epoch - 1]
    assert validation["val_loss"] == pytest.approx(kept["val_loss"])
    assert losses.mean() == pytest.approx(kept["val_loss"])


@pytest.mark.parametrize(
    ("spread", "num_epochs", "kept"),
    [
        # Alike on all images: none above the lowest, of epoch 2, is kept.
        ([0.0, 0.0, 0.0], 5, 2),
        # Of odd epochs a standard error is 0.577: 0.5 and 0.1 are within it,
        # 0.6 is not.
        ([-1.0, 0.0, 1.0], 8, 5),
    ],
)
def test_latest_epoch_is_kept_that_is_no_worse_than_by_chance(
    spread, num_epochs, kept, tmp_path
):
    strategy = make_strategy("one_device")
    # Before the first epoch, and after each.
    val_losses = iter([9.0, 5.0, 4.0, 4.5, 4.2, 4.1, 6.0, 4.6, 4.7, 1.0])
    signs = itertools.cycle([0.0, 1.0])

    def validate():
        loss = next(val_losses)
        metrics = {"val_loss": loss, "val_accuracy": 0.5, "val_auc": None}
        noise = next(signs) * np.array(spread)
        return metrics, (loss + noise).astype(np.float32)

    with strategy.scope():
        phase, checkpoint, _ = feature_phase(
            strategy, tmp_path, 50, patience=3, validate=validate
        )
        seen = []
        loop.run_phase(
            phase,
            checkpoint,
            lambda row: seen.append(phase.model.get_weights()[0]),
        )
    assert len(seen) == num_epochs
    np.testing.assert_array_equal(phase.model.get_weights()[0], seen[kept - 1])


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def train_for_long(directory):
    """Steps, tracings, and the memory after each of 50 epochs."""
    quick.set_up(num_devices=2)
    strategy = make_strategy("mirrored")
    memory = []
    with strategy.scope():
        # The first and the last inner loop of an epoch differ in length.
        phase, checkpoint, _ = feature_phase(
            strategy,
            directory,
            num_epochs=50,
            steps_per_epoch=60,
            steps_per_execution=25,
        )
        loop.run_phase(
            phase, checkpoint, lambda _: memory.append(resident_bytes())
        )
    num_tracings = phase.train_steps.experimental_get_tracing_count()
    return checkpoint.progress.step, num_tracings, memory


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="needs Linux' /proc"
)
def test_thousands_of_steps_neither_grow_nor_retrace(tmp_path):
    # In a process of its own: other tests leave memory that their threads free.
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, spawn) as pool:
        steps, num_tracings, memory = pool.submit(
            train_for_long, tmp_path
        ).result()
    assert (steps, num_tracings, len(memory)) == (3_000, 1, 50)
    # After a fifth of the steps; the history of 40 epochs is a few kilobytes,
    # and what the allocator keeps of them a few megabytes.
    assert max(memory[10:]) - memory[10] < 8 * 2**20


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.mark.parametrize(
    ("strategy_name", "checkpoint_every_s", "accumulation_steps"),
    [("mirrored", 0.0, 2), ("one_device", 300.0, 1)],
)
def test_killed_phase_ends_with_the_weights_of_one_never_killed(
    strategy_name, checkpoint_every_s, accumulation_steps, tmp_path
):
    strategy = make_strategy(strategy_name)

    def run(directory, kill_after=None):
        with strategy.scope():
            phase, checkpoint, _ = feature_phase(
                strategy,
                directory,
                6,
                accumulation_steps=accumulation_steps,
                checkpoint_every_s=checkpoint_every_s,
                steps_per_execution=1,
            )
            checkpoint.restore()
            calls = 0
            train_steps = phase.train_steps

            def count(*args):
                nonlocal calls
                calls += 1
                if kill_after and calls > kill_after:
                    raise Killed
                return train_steps(*args)

            object.__setattr__(phase, "train_steps", count)
            history = loop.run_phase(phase, checkpoint, lambda row: None)
        return phase.model.get_weights(), history, calls

    weights, history, calls = run(tmp_path / "whole")
    assert calls == 18
    for kill_after in (5, 7, 2):
        with pytest.raises(Killed):
            run(tmp_path / "killed", kill_after)
    resumed_weights, resumed_history, calls = run(tmp_path / "killed")
    # Checkpoints within an epoch leave fewer steps to repeat.
    assert calls == (4 if checkpoint_every_s == 0 else 9)
    for mine, theirs in zip(resumed_weights, weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    timing = {"seconds", "images_per_second", "input_wait_share"}
    for mine, theirs in zip(resumed_history, history, strict=True):
        for name in set(mine) - timing:
            assert mine[name] == theirs[name], name


# Two steps an inner loop, three an epoch: within an epoch and at its end.
@pytest.mark.parametrize(
    ("strategy_name", "stop_at", "saved_step"),
    [("mirrored", 3, 5), ("one_device", 2, 3)],
)
def test_phase_told_to_stop_saves_the_step_and_continues(
    strategy_name, stop_at, saved_step, tmp_path
):
    strategy = make_strategy(strategy_name)

    def run(directory, stop_at=None):
        with strategy.scope():
            phase, checkpoint, _ = feature_phase(
                strategy,
                directory,
                4,
                stop_requested=lambda: checkpoint.progress.step == stop_at,
            )
            checkpoint.restore()
            history = loop.run_phase(phase, checkpoint, lambda row: None)
        return phase.model.get_weights(), history

    weights, history = run(tmp_path / "whole")
    with pytest.raises(preemption.Preempted) as stopped:
        run(tmp_path / "stopped", stop_at)
    assert stopped.value.code == startup.PREEMPTED
    saved = tmp_path / "stopped" / f"ckpt-{saved_step}.index"
    assert saved.exists()
    resumed_weights, resumed_history = run(tmp_path / "stopped")
    np.testing.assert_array_equal(resumed_weights[0], weights[0])
    for name in ("epoch", "step", "loss", "val_loss"):
        assert [r[name] for r in resumed_history] == [r[name] for r in history]


def test_finished_phase_is_not_run_again(tmp_path):
    strategy = make_strategy("one_device")
    with strategy.scope():
        phase, checkpoint, _ = feature_phase(strategy, tmp_path, 2)
        history = loop.run_phase(phase, checkpoint, lambda row: None)
        weights = phase.model.get_weights()
        phase, checkpoint, _ = feature_phase(strategy, tmp_path, 2)
        assert checkpoint.restore()
        again = loop.run_phase(phase, checkpoint, lambda row: 1 / 0)
    assert again == history
    np.testing.assert_array_equal(phase.model.get_weights()[0], weights[0])


def test_profile_of_the_first_step_alone_is_written(tmp_path):
    strategy = make_strategy("one_device")
    profiler = profiling.StepProfiler(str(tmp_path / "logs"), (1, 1))
    with strategy.scope():
        phase, checkpoint, _ = feature_phase(
            strategy, tmp_path, 1, profiler=profiler
        )
        loop.run_phase(phase, checkpoint, lambda row: None)
    assert len(list(tmp_path.glob("logs/plugins/profile/*/*.xplane.pb"))) == 1


@pytest.mark.parametrize(
    ("loss", "bad_validation", "message"),
    [
        (np.nan, None, "loss is nan at step 2: lower"),
        (1.0, 1, "validation loss is nan at step 3: lower"),
        (1.0, 0, "validation loss is nan at step 0: --weights"),
    ],
)
def test_loss_that_is_not_finite_stops_with_a_sentence(
    tmp_path, loss, bad_validation, message
):
    strategy, validations = make_strategy("one_device"), itertools.count()

    def validate():
        logits = np.array([[0.5], [-1.0], [0.2]], np.float32)
        if next(validations) == bad_validation:
            logits[1] = np.nan
        return loop.validate(np.array([1, 0, 1], np.int32), logits)

    with strategy.scope():
        phase, checkpoint, _ = feature_phase(
            strategy,
            tmp_path,
            1,
            train_steps=lambda *args: tf.constant([loss, 0.0, 4.0, 0.0, 0.0]),
        )
        phase = dataclasses.replace(phase, validate=validate)
        with pytest.raises(ValueError, match=message):
            loop.run_phase(phase, checkpoint, lambda row: None)


@pytest.mark.parametrize(
    ("strategy_name", "batch"),
    [
        *(("one_device", 1), ("one_device", 5), ("one_device", 64)),
        *(("mirrored", 4), ("mirrored", 22)),
    ],
)
def test_predict_all_returns_every_image_in_order(
    strategy_name, batch, tiny_records
):
    strategy = make_strategy(strategy_name)
    info = input_pipeline.read_dataset_info(str(tiny_records))

    def dataset():
        return distribution.distribute(
            strategy,
            lambda workers, index: input_pipeline.make_evaluation_dataset(
                input_pipeline.split_files(str(tiny_records), info, "train"),
                shard_sizes=info.shard_sizes("train"),
                image_size=IMAGE_SIZE,
                channels=1,
                global_batch_size=batch,
                per_replica_batch_size=batch // strategy.num_replicas_in_sync,
                num_workers=workers,
                worker_index=index,
            ),
        )

    with strategy.scope():
        inputs = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 1])
        outputs = keras.layers.GlobalAveragePooling2D()(inputs)
        outputs = keras.layers.Dropout(0.9)(outputs)  # of training alone
        model = keras.Model(inputs, outputs)
        step = loop.make_predict_function(strategy, model)
        means = loop.predict_all(step, dataset(), 22, batch)
    plain = input_pipeline.make_evaluation_dataset(
        input_pipeline.split_files(str(tiny_records), info, "train"),
        shard_sizes=info.shard_sizes("train"),
        image_size=IMAGE_SIZE,
        channels=1,
        global_batch_size=22,
        per_replica_batch_size=22,
    )
    images = next(plain.as_numpy_iterator())["inputs"]
    np.testing.assert_allclose(means, images.mean(axis=(1, 2)), rtol=1e-5)


def test_validation_metrics_equal_hand_computed():
    labels = np.array([0, 0, 1, 1], np.int32)
    logits = np.array([[-1.0], [0.5], [0.2], [2.0]], np.float32)
    metrics = loop.validation_metrics(labels, logits)
    p = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    expected = -np.mean(np.where(labels, np.log(p), np.log(1 - p)))
    assert metrics["val_loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["val_accuracy"] == 0.75
    assert metrics["val_auc"] == 0.75
    one_class = loop.validation_metrics(labels * 0, logits)
    assert one_class["val_auc"] is None
