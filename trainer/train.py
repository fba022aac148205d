"""The two phases of training: the head on features, then fine-tuning."""

import dataclasses
import hashlib
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config
from trainer.data import input_pipeline, records
from trainer.evaluation.predictions import Predictions, concatenate
from trainer.model import classifier, losses
from trainer.progress import Progress
from trainer.run import Run, claim_job_dir
from trainer.storage import paths
from trainer.training import (
    checkpoints,
    distribution,
    head_training,
    history,
    loop,
    profiling,
    run_record,
    schedules,
    train_step,
)

HEAD_FILE = "head.npz"
_SHARE_STORAGE = (
    "give all of them the same --job_dir, on storage that they share"
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and what it says.

    Attributes:
        run: model, data and strategy.
        rows: of `history.csv`; on the chief.
        predictions: of every image of validation and test, by split.
        members: the weights of each of the models whose mean was predicted,
            where those are several; on the chief.
    """

    run: Run
    rows: list[dict]
    predictions: dict[str, Predictions]
    members: list[list[np.ndarray]] = dataclasses.field(default_factory=list)


def set_up(cfg: config.TrainConfig) -> tf.distribute.Strategy:
    """Sets up what a process has once: seeds, strategy and precision."""
    keras.utils.set_random_seed(cfg.seed)
    if cfg.deterministic:
        distribution.make_deterministic()
    strategy = distribution.create_strategy(cfg.strategy, cfg.cluster_timeout_s)
    distribution.per_replica_batch_size(
        strategy, cfg.global_batch_size, cfg.accumulation_steps
    )
    keras.config.set_dtype_policy(distribution.choose_precision(cfg.precision))
    return strategy


def train_and_predict(
    cfg: config.TrainConfig,
    info: records.DatasetInfo,
    strategy: tf.distribute.Strategy,
) -> Trained:
    """Trains and predicts on all workers; goes on where it stopped.

    Args:
        cfg: what to do.
        info: the data set of `cfg.data_dir`.
        strategy: of this process.

    Raises:
        FileNotFoundError: if weights are missing.
        ValueError: if data, weights or job directory do not fit the
            configuration.
    """
    run = _start(cfg, info, strategy)
    rows = []
    if cfg.is_pretrained and cfg.head_epochs:
        rows += _train_head(run)
    with strategy.scope():
        if cfg.fine_tune_epochs:
            rows += _fine_tune(run, rows)
        predictions = run.predict()
    if run.is_chief:
        history.write_csv(cfg.job_dir, rows)
    else:
        paths.remove_folder(run.scratch_dir)
    return Trained(run, rows, predictions)


def predict_mean(
    cfg: config.TrainConfig,
    info: records.DatasetInfo,
    strategy: tf.distribute.Strategy,
    members: list[list[np.ndarray]],
    left_out: Sequence[Predictions],
) -> Trained:
    """Predicts the test split by the mean of several models' logits.

    Args:
        cfg: what to do.
        info: the data set of `cfg.data_dir`.
        strategy: of this process.
        members: weights of each model; elsewhere than on the chief, empty.
        left_out: what each said of the images that it was not trained on,
            which together take the place of validation.
    """
    run = _start(cfg, info, strategy)
    parts = []
    for weights in members:
        weights = weights or run.model.get_weights()
        run.model.set_weights(distribution.from_chief(strategy, weights))
        with strategy.scope():
            parts.append(run.predict(["test"])["test"])
    logits = np.mean([part.logits for part in parts], axis=0)
    if not run.is_chief:
        paths.remove_folder(run.scratch_dir)
    return Trained(
        run,
        [],
        {
            "validation": concatenate(left_out),
            "test": dataclasses.replace(parts[0], logits=logits),
        },
        members,
    )


def _start(
    cfg: config.TrainConfig,
    info: records.DatasetInfo,
    strategy: tf.distribute.Strategy,
) -> Run:
    """The run of a job directory, which is this one's from now on."""
    # Names of layers, and with them what a seed gives, must not depend on the
    # models that this process has built before.
    keras.backend.clear_session()
    # Weights have a seed before anything could draw one.
    keras.utils.set_random_seed(cfg.seed)
    with strategy.scope():
        run = Run(cfg, info, strategy)
        distribution.check_agreement(
            strategy,
            {
                "flags": hashlib.sha256(cfg.shared_json().encode()).hexdigest(),
                "data set": info.fingerprint,
            },
            "start all of them with the same flags on the same data",
        )
    claim_job_dir(cfg, info, run.is_chief)
    if run.is_chief:
        run_record.append(
            cfg.job_dir,
            run_record.describe_start(
                sys.orig_argv,
                distribution.describe(strategy),
                info.fingerprint,
            )
            | {"precision": keras.config.dtype_policy().name},
        )
    return run


def _train_head(run: Run) -> list[dict]:
    """Trains the head on the chief, and gives it to all workers.

    Outside the scope of the strategy: what one worker does alone must create
    no variables that the others would have to create with it.
    """
    path = paths.join(run.cfg.job_dir, "checkpoints", HEAD_FILE)
    progress = checkpoints.read_progress(path) if run.is_chief else None
    if distribution.all_agree(
        run.strategy, progress is not None or not run.is_chief
    ):
        logging.info("head      already finished; its result is kept.")
    else:
        num_views, info = run.num_views, run.info
        total = num_views * info.num_images("train")
        total += info.num_images("validation")
        with run.strategy.scope(), Progress(total, "features") as bar:
            views = [
                run.features("train", view, run.augmentation, bar)
                for view in range(num_views)
            ]
            validation_features = run.features("validation", bar=bar)
        if run.is_chief:
            progress = _train_head_on(run, views, validation_features)
            paths.write_atomically(path, progress.to_bytes())
    weights = progress.best_weights if progress else run.head.get_weights()
    run.head.set_weights(distribution.from_chief(run.strategy, weights))
    return progress.history if progress else []


def _train_head_on(
    run: Run, views: list[np.ndarray], validation_features: np.ndarray
) -> checkpoints.Progress:
    labels = run.labels("train")
    validation_labels = run.labels("validation")
    trained = head_training.train_head(
        run.head_settings,
        views,
        np.arange(len(labels)),
        labels,
        validation_features,
        validation_labels,
    )
    rows = [
        {
            "phase": "head",
            "epoch": epoch,
            **loop.validation_metrics(
                validation_labels, trained.epoch_logits[epoch]
            ),
            **row,
            "input_wait_share": None,
        }
        for epoch, row in enumerate(trained.history, start=1)
    ]
    for row in rows:
        history.log_epoch(row, run.cfg.head_epochs)
    logging.info(
        "head      best after epoch %d of %d.", trained.best_epoch, len(rows)
    )
    history.EpochLog(run.cfg.job_dir, "head").write(rows)
    return checkpoints.Progress(
        step=rows[-1]["step"],
        best_epoch=trained.best_epoch,
        finished=True,
        history=rows,
        best_weights=trained.weights,
    )


def _fine_tune(run: Run, rows_before: list[dict]) -> list[dict]:
    cfg = run.cfg
    classifier.set_trainable(
        run.model,
        cfg.fine_tune_blocks if cfg.is_pretrained else len(classifier.BLOCKS),
        train_batch_norm=not cfg.is_pretrained,
    )
    num_images = run.info.num_images("train")
    num_epochs = cfg.fine_tune_epochs
    if num_epochs < 0:
        num_epochs = schedules.choose_epochs(num_images)
    steps_per_epoch = -(-num_images // cfg.global_batch_size)
    optimizer = _make_optimizer(run, steps_per_epoch * num_epochs)
    checkpoint = _restore(run, optimizer)
    progress = checkpoint.progress
    if progress.finished:
        logging.info("fine_tune already finished; its result is kept.")
        run.model.set_weights(progress.best_weights)
        return progress.history
    phase = loop.Phase(
        name="fine_tune",
        model=run.model,
        optimizer=optimizer,
        train_steps=train_step.make_train_function(
            run.strategy,
            _make_replica_step(run, optimizer),
            cfg.accumulation_steps,
            measures_waiting=not cfg.deterministic,
        ),
        make_dataset=lambda start_step: _make_dataset(run, start_step),
        validate=lambda: loop.validate(
            run.labels("validation"),
            run.outputs(run.predict_step, "validation"),
        ),
        steps_per_epoch=steps_per_epoch,
        num_epochs=num_epochs,
        patience=cfg.patience,
        steps_per_execution=cfg.steps_per_execution,
        stop_requested=run.sigterm,
        profiler=profiling.StepProfiler(
            paths.join(cfg.job_dir, "logs/fine_tune") if run.is_chief else "",
            cfg.profile_range,
        ),
    )
    log = None
    if run.is_chief:
        log = history.EpochLog(
            cfg.job_dir, "fine_tune", rows_before, len(progress.history)
        )
    with run.sigterm.deferred():
        return loop.run_phase(
            phase,
            checkpoint,
            lambda _: log and log.write(progress.history),
        )


def _make_optimizer(run: Run, total_steps: int) -> keras.optimizers.Optimizer:
    cfg = run.cfg
    warmup_steps = int(cfg.warmup_fraction * total_steps)
    rate = schedules.scale_for_batch(
        cfg.peak_fine_tune_learning_rate,
        cfg.global_batch_size,
        cfg.learning_rate_scaling,
    )
    logging.info(
        "fine_tune learning rate %.3g (%.3g at %d images a step, scaled to %d "
        "by the rule %r), reached after %d of %d steps.",
        rate,
        cfg.peak_fine_tune_learning_rate,
        schedules.BASE_BATCH_SIZE,
        cfg.global_batch_size,
        cfg.learning_rate_scaling,
        warmup_steps,
        total_steps,
    )
    optimizer = schedules.make_optimizer(
        cfg.optimizer,
        schedules.make_schedule(cfg.schedule, rate, warmup_steps, total_steps),
        cfg.weight_decay,
    )
    if keras.config.dtype_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(run.model.trainable_variables)
    return optimizer


def _restore(
    run: Run, optimizer: keras.optimizers.Optimizer
) -> checkpoints.PhaseCheckpoint:
    """The checkpoints of fine-tuning; model and optimizer go on at the last."""
    checkpoint = checkpoints.PhaseCheckpoint(
        paths.join(run.cfg.job_dir, "checkpoints", "fine_tune"),
        run.model,
        optimizer,
        None if run.is_chief else paths.join(run.scratch_dir, "fine_tune"),
    )
    if checkpoint.restore():
        logging.info(
            "fine_tune continues after step %d.", checkpoint.progress.step
        )
    step = str(checkpoint.progress.step)
    distribution.check_agreement(
        run.strategy,
        {"checkpoint": hashlib.sha256(step.encode()).hexdigest()},
        _SHARE_STORAGE,
    )
    return checkpoint


def _make_replica_step(
    run: Run, optimizer: keras.optimizers.Optimizer
) -> train_step.ReplicaStep:
    cfg = run.cfg
    class_weights = np.ones(run.info.num_classes, np.float32)
    if cfg.class_weights == "balanced":
        counts = np.bincount(
            run.labels("train"), minlength=run.info.num_classes
        )
        class_weights = losses.balanced_class_weights(counts.tolist())
    return train_step.ReplicaStep(
        run.model,
        optimizer,
        class_weights=class_weights,
        label_smoothing=cfg.label_smoothing,
        global_batch_size=cfg.global_batch_size,
        seed=cfg.seed,
        focal_gamma=cfg.focal_gamma,
        gradient_clip_norm=cfg.gradient_clip_norm,
    )


def _make_dataset(
    run: Run, start_step: int
) -> tf.distribute.DistributedDataset:
    cfg = run.cfg
    return distribution.distribute(
        run.strategy,
        lambda num_workers, worker_index: input_pipeline.make_train_dataset(
            run.files("train"),
            shard_sizes=run.info.shard_sizes("train"),
            image_size=cfg.image_size,
            channels=run.info.channels,
            augmentation=run.augmentation,
            global_batch_size=cfg.global_batch_size,
            per_replica_batch_size=run.per_replica,
            seed=cfg.seed,
            start_step=start_step,
            num_workers=num_workers,
            worker_index=worker_index,
        ),
    )
