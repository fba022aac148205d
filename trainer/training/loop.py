"""Prediction, and the outer loop of training.

The inner loop runs `steps_per_execution` steps in one `tf.function`. The outer
loop validates, keeps the best weights, stops early, checkpoints and reports.
"""

import dataclasses
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from sklearn import metrics as sklearn_metrics

from trainer.model import losses
from trainer.progress import Progress
from trainer.training import checkpoints, history, preemption, profiling


def make_predict_function(
    strategy: tf.distribute.Strategy, model: keras.Model
) -> Callable:
    """Makes a compiled step that returns `indices` and the model's outputs."""

    def step_on_replica(batch):
        outputs = model(batch["inputs"], training=False)
        return batch["indices"], tf.cast(outputs, tf.float32)

    @tf.function(autograph=False)
    def predict_step(iterator):
        indices, outputs = strategy.run(step_on_replica, args=(next(iterator),))
        return strategy.gather(indices, 0), strategy.gather(outputs, 0)

    return predict_step


def predict_all(
    predict_step: Callable,
    dataset,
    num_images: int,
    global_batch_size: int,
    outputs: np.ndarray | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Outputs of every image exactly once, in the order of the shards.

    Args:
        predict_step: from `make_predict_function`.
        dataset: distributed, of padded evaluation batches.
        num_images: without padding.
        global_batch_size: images per step, over all replicas.
        outputs: filled, if given.
        report: is told how many images have been done, time and again.

    Returns:
        `outputs`, or float32 `[num_images, outputs]`.

    Raises:
        ValueError: if the shards held another number of images.
    """
    iterator = iter(dataset)
    seen = np.zeros(num_images, np.int64)
    for _ in range(-(-num_images // global_batch_size)):
        indices, batch = (t.numpy() for t in predict_step(iterator))
        is_real = indices < num_images
        if outputs is None:
            outputs = np.zeros((num_images, batch.shape[-1]), np.float32)
        outputs[indices[is_real]] = batch[is_real]
        seen[indices[is_real]] += 1
        report(int(is_real.sum()))
    if not np.all(seen == 1):
        raise ValueError(
            f"{np.sum(seen == 0)} images were not read and "
            f"{np.sum(seen > 1)} more than once: the shards do not match "
            "dataset.json; build the records again."
        )
    return outputs


def validation_metrics(labels: np.ndarray, logits: np.ndarray) -> dict:
    """Loss, accuracy and AUC on the host.

    Args:
        labels: int32 `[images]`.
        logits: float32 `[images, K]`.

    Returns:
        `val_loss`, `val_accuracy` and `val_auc`: the area under the ROC curve,
        one against the rest and averaged for more than two classes, None where
        a class is absent or a logit not finite.
    """
    loss = losses.cross_entropy(tf.constant(labels), tf.constant(logits))
    correct = losses.is_correct(tf.constant(labels), tf.constant(logits))
    num_classes = max(2, logits.shape[-1])
    auc = None
    if len(set(labels.tolist())) == num_classes and np.isfinite(logits).all():
        if logits.shape[-1] == 1:
            auc = sklearn_metrics.roc_auc_score(labels, logits[:, 0])
        else:
            auc = sklearn_metrics.roc_auc_score(
                labels, tf.nn.softmax(logits).numpy(), multi_class="ovr"
            )
    return {
        "val_loss": float(tf.reduce_mean(loss)),
        "val_accuracy": float(tf.reduce_mean(correct)),
        "val_auc": None if auc is None else float(auc),
    }


def validate(labels: np.ndarray, logits: np.ndarray) -> tuple[dict, np.ndarray]:
    """`validation_metrics`, and the loss of each image, float32 `[images]`."""
    losses_of_images = losses.cross_entropy(
        tf.constant(labels), tf.constant(logits)
    )
    return validation_metrics(labels, logits), losses_of_images.numpy()


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Attributes:
        name: of the phase in history, log and messages.
        model: that is trained.
        optimizer: built on its trainable variables.
        train_steps: from `train_step.make_train_function`.
        make_dataset: function of the first step that returns a distributed
            data set.
        validate: returns what the function of this name does.
        steps_per_epoch: training steps in an epoch.
        num_epochs: at most.
        patience: epochs that may go by without one that is kept.
        steps_per_execution: steps in one call of `train_steps`.
        stop_requested: whether this worker has been told to stop.
        profiler: of some steps.
        checkpoint_every_s: seconds between checkpoints within an epoch.
    """

    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    train_steps: Callable
    make_dataset: Callable
    validate: Callable[[], tuple[dict, np.ndarray]]
    steps_per_epoch: int
    num_epochs: int
    patience: int
    steps_per_execution: int
    stop_requested: Callable[[], bool] = lambda: False
    profiler: profiling.StepProfiler = dataclasses.field(
        default_factory=profiling.StepProfiler
    )
    checkpoint_every_s: float = 300.0


def run_phase(
    phase: Phase,
    checkpoint: checkpoints.PhaseCheckpoint,
    on_epoch: Callable[[dict], None],
) -> list[dict]:
    """Trains to the end of a phase and leaves the best weights in the model.

    A phase that was interrupted goes on at its last checkpoint. If a worker is
    told to stop, all save at the end of the running inner loop and raise
    `preemption.Preempted`.

    Args:
        phase: what to train.
        checkpoint: restored already.
        on_epoch: called with each new row of the history.

    Returns:
        The history: a dictionary of `history.COLUMNS` per epoch.
    """
    progress = checkpoint.progress
    if not progress.best_weights:
        # The weights a phase starts with are its first candidate: a phase
        # that only makes things worse changes nothing.
        _validate(phase, progress, epoch=0)
    try:
        iterator = None
        num_steps = phase.num_epochs * phase.steps_per_epoch
        with Progress(
            num_steps, phase.name, "steps", done=progress.step
        ) as bar:
            while not progress.finished:
                if iterator is None:
                    iterator = iter(phase.make_dataset(progress.step))
                epoch, stop = _run_epoch(phase, checkpoint, iterator, bar)
                row = _finish_epoch(phase, progress, epoch)
                checkpoint.save()
                on_epoch(row)
                if stop:
                    _stop(phase, progress)
    finally:
        phase.profiler.stop()
    if progress.best_epoch < len(progress.history):
        phase.model.set_weights(progress.best_weights)
    return progress.history


def _run_epoch(
    phase: Phase,
    checkpoint: checkpoints.PhaseCheckpoint,
    iterator,
    bar: Progress,
) -> tuple[int, bool]:
    """Runs the rest of the current epoch.

    Returns:
        Its number, from 1, and whether to stop once it is finished.
    """
    progress = checkpoint.progress
    epoch = progress.step // phase.steps_per_epoch + 1
    last_step = epoch * phase.steps_per_epoch
    last_save = last_line = time.monotonic()
    while progress.step < last_step:
        num_steps = min(phase.steps_per_execution, last_step - progress.step)
        num_steps = phase.profiler.limit(progress.step, num_steps)
        phase.profiler.update(progress.step)
        start = time.monotonic()
        sums = phase.train_steps(
            iterator,
            tf.constant(progress.step, tf.int64),
            tf.constant(num_steps, tf.int64),
            tf.constant(float(phase.stop_requested())),
        ).numpy()
        now = time.monotonic()
        progress.step += num_steps
        bar.update(num_steps)
        progress.sums = [
            a + float(b) for a, b in zip(progress.sums, sums[:3], strict=True)
        ]
        progress.seconds += now - start
        progress.input_seconds += float(sums[4])
        phase.profiler.update(progress.step)
        _check_finite(phase, progress, sums[0], "loss")
        # The sum over workers is the same on all: all stop at the same step.
        stop = bool(sums[3])
        if stop and progress.step < last_step:
            checkpoint.save()
            _stop(phase, progress)
        if now - last_line > 10.0:
            last_line = now
            _log_progress(phase, progress, epoch)
        if (
            now - last_save > phase.checkpoint_every_s
            and progress.step < last_step
        ):
            last_save = now
            checkpoint.save()
    return epoch, stop


def _check_finite(phase, progress, loss: float, name: str) -> None:
    if np.isfinite(loss):
        return
    remedy = "lower the learning rate; the last checkpoint is intact."
    if not progress.step:
        remedy = "--weights or --precision do not suit these images."
    raise ValueError(
        f"The {phase.name} {name} is {loss} at step {progress.step}: {remedy}"
    )


def _stop(phase: Phase, progress: checkpoints.Progress):
    """Ends the process after a save."""
    logging.warning(
        "%s stopped by SIGTERM and saved after step %d; the same command "
        "continues.",
        phase.name,
        progress.step,
    )
    raise preemption.Preempted


def _log_progress(phase, progress, epoch):
    loss_sum, correct, images = progress.sums
    logging.info(
        "%-9s epoch %d/%d step %d/%d  loss %.4f  accuracy %.3f  %.0f images/s, "
        "%s waiting for input",
        phase.name,
        epoch,
        phase.num_epochs,
        progress.step - (epoch - 1) * phase.steps_per_epoch,
        phase.steps_per_epoch,
        loss_sum / images,
        correct / images,
        images / max(progress.seconds, 1e-9),
        history.percent(progress.input_wait_share),
    )


def _finish_epoch(
    phase: Phase, progress: checkpoints.Progress, epoch: int
) -> dict:
    """Validates, updates `progress` and returns the row of the epoch."""
    loss_sum, correct, images = progress.sums
    validation = _validate(phase, progress, epoch)
    row = {
        "phase": phase.name,
        "epoch": epoch,
        "step": progress.step,
        "loss": loss_sum / images,
        "accuracy": correct / images,
        **validation,
        "learning_rate": float(
            keras.ops.convert_to_numpy(phase.optimizer.learning_rate)
        ),
        "images_per_second": images / max(progress.seconds, 1e-9),
        "seconds": progress.seconds,
        "input_wait_share": progress.input_wait_share,
    }
    progress.history.append(row)
    progress.sums, progress.seconds = [0.0] * 3, 0.0
    progress.input_seconds = 0.0
    stale = epoch - progress.best_epoch
    progress.finished = epoch >= phase.num_epochs or stale >= phase.patience
    history.log_epoch(row, phase.num_epochs, is_best=not stale)
    if progress.finished and epoch < phase.num_epochs:
        logging.info(
            "%-9s stopped early: the validation loss has been above its "
            "lowest by more than chance for %d epochs.",
            phase.name,
            stale,
        )
    return row


def _validate(phase: Phase, progress: checkpoints.Progress, epoch: int) -> dict:
    """Validates, and keeps the weights unless an earlier epoch is better.

    Kept is the latest epoch whose validation loss is above the lowest by no
    more than one standard error of their difference over the images (Breiman
    et al., 1984, "Classification and Regression Trees", section 3.4.3). Few
    images have a lowest loss by chance, and the schedule ends where it should.
    """
    validation, losses_of_images = phase.validate()
    _check_finite(phase, progress, validation["val_loss"], "validation loss")
    if epoch == 0 or losses_of_images.mean() < np.mean(progress.lowest_losses):
        progress.lowest_losses = losses_of_images.tolist()
    worse = losses_of_images - np.float32(progress.lowest_losses)
    if worse.mean() <= worse.std() / np.sqrt(max(1, len(worse) - 1)):
        progress.best_epoch = epoch
        progress.best_weights = phase.model.get_weights()
    return validation
