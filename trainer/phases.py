"""The two phases of training: the head on features, then fine-tuning."""

import dataclasses
import hashlib

import keras
import numpy as np
from absl import logging

from trainer import run as job_lib
from trainer.data import input_pipeline
from trainer.model import classifier, losses
from trainer.storage import paths
from trainer.training import (
    checkpoints,
    distribution,
    features,
    history,
    loop,
    profiling,
    schedules,
    train_step,
)


@dataclasses.dataclass(frozen=True)
class _PhaseSetup:
    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    checkpoint: checkpoints.PhaseCheckpoint
    steps_per_epoch: int
    num_epochs: int

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.num_epochs


def train(job: job_lib.Job) -> list[dict]:
    """Runs both phases and returns the rows of the history."""
    rows = []
    if job.cfg.is_pretrained and job.cfg.head_epochs:
        rows += _train_head(job)
    if job.cfg.fine_tune_epochs:
        rows += _fine_tune(job, rows)
    if job.is_chief:
        history.write_csv(job.cfg.job_dir, rows)
    return rows


def _train_head(job: job_lib.Job) -> list[dict]:
    cfg = job.cfg
    classifier.set_trainable(job.model, 0, train_batch_norm=False)
    job.head.trainable = True
    setup = _set_up(job, "head", job.head, cfg.head_learning_rate)
    if setup.checkpoint.progress.finished:
        logging.info("head      already finished; its result is kept.")
        job.head.set_weights(setup.checkpoint.progress.best_weights)
        return setup.checkpoint.progress.history
    train_features = job.features("train", cfg.feature_views, job.augmentation)
    (validation_features,) = job.features("validation")

    def make_dataset(start_step):
        return distribution.distribute(
            job.strategy,
            lambda num_workers, worker_index: features.make_feature_dataset(
                train_features,
                np.array(job.index["train"].labels, np.int32),
                total_steps=setup.total_steps,
                global_batch_size=cfg.global_batch_size,
                per_replica_batch_size=job.per_replica,
                seed=cfg.seed,
                start_step=start_step,
                num_workers=num_workers,
                worker_index=worker_index,
            ),
        )

    def validate():
        return loop.validation_metrics(
            np.array(job.index["validation"].labels, np.int32),
            job.head(validation_features, training=False).numpy(),
        )

    return _run_phase(job, setup, make_dataset, validate, [])


def _fine_tune(job: job_lib.Job, rows_before) -> list[dict]:
    cfg = job.cfg
    classifier.set_trainable(
        job.model,
        cfg.fine_tune_blocks if cfg.is_pretrained else len(classifier.BLOCKS),
        train_batch_norm=not cfg.is_pretrained,
    )
    setup = _set_up(
        job, "fine_tune", job.model, cfg.peak_fine_tune_learning_rate
    )
    if setup.checkpoint.progress.finished:
        logging.info("fine_tune already finished; its result is kept.")
        job.model.set_weights(setup.checkpoint.progress.best_weights)
        return setup.checkpoint.progress.history

    def make_dataset(start_step):
        return distribution.distribute(
            job.strategy,
            lambda num_workers, worker_index: input_pipeline.make_train_dataset(
                job.files("train"),
                shard_sizes=job.info.shard_sizes("train"),
                image_size=cfg.image_size,
                channels=job.info.channels,
                augmentation=job.augmentation,
                global_batch_size=cfg.global_batch_size,
                per_replica_batch_size=job.per_replica,
                seed=cfg.seed,
                start_step=start_step,
                num_workers=num_workers,
                worker_index=worker_index,
            ),
        )

    def validate():
        return loop.validation_metrics(
            np.array(job.index["validation"].labels, np.int32),
            job.outputs(job.predict_step, "validation"),
        )

    return _run_phase(job, setup, make_dataset, validate, rows_before)


def _set_up(job: job_lib.Job, name, model, peak_learning_rate) -> _PhaseSetup:
    """Optimizer and restored checkpoint of a phase."""
    cfg = job.cfg
    steps_per_epoch = -(-job.info.num_images("train") // cfg.global_batch_size)
    num_epochs = cfg.head_epochs if name == "head" else cfg.fine_tune_epochs
    total_steps = steps_per_epoch * num_epochs
    warmup_steps = int(cfg.warmup_fraction * total_steps)
    peak_rate = schedules.scale_for_batch(
        peak_learning_rate, cfg.global_batch_size, cfg.learning_rate_scaling
    )
    logging.info(
        "%-9s learning rate %.3g (%.3g at %d images a step, scaled to %d "
        "by the rule %r), reached after %d of %d steps.",
        name,
        peak_rate,
        peak_learning_rate,
        schedules.BASE_BATCH_SIZE,
        cfg.global_batch_size,
        cfg.learning_rate_scaling,
        warmup_steps,
        total_steps,
    )
    optimizer = schedules.make_optimizer(
        cfg.optimizer,
        schedules.make_schedule(
            cfg.schedule, peak_rate, warmup_steps, total_steps
        ),
        cfg.weight_decay,
    )
    if keras.config.dtype_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    checkpoint = checkpoints.PhaseCheckpoint(
        paths.join(cfg.job_dir, "checkpoints", name),
        model,
        optimizer,
        None if job.is_chief else paths.join(job.scratch_dir, name),
    )
    if checkpoint.restore():
        logging.info(
            "%-9s continues after step %d.", name, checkpoint.progress.step
        )
    progress = f"{name} {checkpoint.progress.step}"
    distribution.check_agreement(
        job.strategy,
        {"checkpoint": hashlib.sha256(progress.encode()).hexdigest()},
        "give all of them the same --job_dir, on storage that they share",
    )
    return _PhaseSetup(
        name, model, optimizer, checkpoint, steps_per_epoch, num_epochs
    )


def _run_phase(job: job_lib.Job, setup, make_dataset, validate, rows_before):
    cfg = job.cfg
    class_counts = np.bincount(
        job.index["train"].labels, minlength=job.info.num_classes
    )
    if cfg.class_weights == "balanced":
        class_weights = losses.balanced_class_weights(class_counts.tolist())
    else:
        class_weights = np.ones(job.info.num_classes, np.float32)
    replica_step = train_step.ReplicaStep(
        setup.model,
        setup.optimizer,
        class_weights=class_weights,
        label_smoothing=cfg.label_smoothing,
        global_batch_size=cfg.global_batch_size,
        seed=cfg.seed,
        focal_gamma=cfg.focal_gamma,
        gradient_clip_norm=cfg.gradient_clip_norm,
        # The head is some matrix products on cached features. XLA on a CPU
        # cannot compile the sums over replicas that its batch norm takes.
        jit_compile=setup.name == "head"
        and not cfg.head_batch_norm
        and not distribution.compiles_steps(job.strategy),
    )
    phase = loop.Phase(
        name=setup.name,
        model=setup.model,
        optimizer=setup.optimizer,
        train_steps=train_step.make_train_function(
            job.strategy,
            replica_step,
            cfg.accumulation_steps,
            measures_waiting=not cfg.deterministic,
        ),
        make_dataset=make_dataset,
        validate=validate,
        steps_per_epoch=setup.steps_per_epoch,
        num_epochs=setup.num_epochs,
        patience=cfg.patience,
        steps_per_execution=cfg.steps_per_execution,
        stop_requested=job.sigterm,
        profiler=profiling.StepProfiler(
            paths.join(cfg.job_dir, "logs", setup.name) if job.is_chief else "",
            cfg.profile_range,
        ),
    )
    progress = setup.checkpoint.progress
    logs = None
    if job.is_chief:
        logs = history.EpochLog(cfg.job_dir, setup.name, rows_before)

    def on_epoch(_):
        if logs:
            logs.write(progress.history)

    with job.sigterm.deferred():
        return loop.run_phase(phase, setup.checkpoint, on_epoch)
