"""The training loop against Keras' `Model.fit`, and its step against others'.

    make peers
    python -m tests.benchmarks.training_loop --data_dir=records

Both train the same model with the same optimizer at the same batch, on the
same input: the head on features in memory, and the classifier with its top
blocks unfrozen on augmented images from `--data_dir`. `fit` runs the head
compiled by XLA and not; its better one counts. A step alone, of pixels in
memory, is compared with those of timm and of Keras on each backend; what is not
installed is left out. They take turns, and the median of the rounds counts: a
ratio above 1 means that Lightbox is faster.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from tests.benchmarks import environments, training_steps
from tests.benchmarks.ratios import tell
from trainer import config, run
from trainer.data import augmentation, input_pipeline
from trainer.model import classifier, dropout
from trainer.training import (
    checkpoints,
    distribution,
    head_training,
    loop,
    train_step,
)

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Records.", required=True)
flags.DEFINE_integer("image_size", 64, "Of the fine-tuning phase, in pixels.")
flags.DEFINE_integer("num_rounds", 7, "Rounds that each takes.")

BATCH = 32
STEPS_PER_EXECUTION = 8
HEAD_EPOCHS = 30
FINE_TUNE_STEPS = 128
NUM_FEATURE_IMAGES = 2048


class NoCheckpoint:
    """`fit` writes none either."""

    def __init__(self):
        self.progress = checkpoints.Progress()

    def save(self) -> None:
        pass


def make_optimizer(model):
    optimizer = keras.optimizers.AdamW(1e-3)
    optimizer.build(model.trainable_variables)
    return optimizer


def make_loop_round(
    name: str, build_model: Callable, make_dataset: Callable, num_steps: int
) -> Callable[[], float]:
    """A round of our loop."""
    strategy = distribution.create_strategy("one_device", 60)
    with strategy.scope():
        model = build_model(dropout.GlobalBatchDropout)
        optimizer = make_optimizer(model)
        train_steps = train_step.make_train_function(
            strategy,
            train_step.ReplicaStep(
                model,
                optimizer,
                class_weights=np.ones(2, np.float32),
                label_smoothing=0.0,
                global_batch_size=BATCH,
                seed=0,
            ),
        )

    def train() -> float:
        with strategy.scope():
            phase = loop.Phase(
                name=name,
                model=model,
                optimizer=optimizer,
                train_steps=train_steps,
                make_dataset=lambda start_step: distribution.distribute(
                    strategy, lambda *_: make_dataset()
                ),
                validate=lambda: (
                    {"val_loss": 0.0, "val_accuracy": 0.0, "val_auc": None},
                    np.zeros(1, np.float32),
                ),
                steps_per_epoch=num_steps,
                num_epochs=1,
                patience=1,
                steps_per_execution=STEPS_PER_EXECUTION,
            )
            start = time.perf_counter()
            loop.run_phase(phase, NoCheckpoint(), lambda row: None)
            return (time.perf_counter() - start) / num_steps

    return train


def make_fit_round(
    model: keras.Model,
    make_dataset: Callable,
    num_steps: int,
    jit_compile: bool,
) -> Callable[[], float]:
    model.compile(
        optimizer=make_optimizer(model),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=jit_compile,
    )

    def train() -> float:
        start = time.perf_counter()
        dataset = make_dataset().map(
            lambda batch: (batch["inputs"], batch["labels"][:, tf.newaxis])
        )
        model.fit(dataset, steps_per_epoch=num_steps, epochs=1, verbose=0)
        return (time.perf_counter() - start) / num_steps

    return train


def compare(phase: str, contestants: dict[str, Callable[[], float]]) -> None:
    """Warms up, lets all take turns, and prints the ratios."""
    for take_turn in contestants.values():
        take_turn()
    seconds = {name: [] for name in contestants}
    for _ in range(FLAGS.num_rounds):
        for name, take_turn in contestants.items():
            seconds[name].append(take_turn())
    ours, *peers = seconds
    for name in peers:
        ratios = [
            b / a for a, b in zip(seconds[ours], seconds[name], strict=True)
        ]
        times = [1e6 * statistics.median(seconds[n]) for n in (ours, name)]
        print(f"{ours} {times[0]:.0f} us a step, {name} {times[1]:.0f}")
        tell(f"A step of {phase}", name, ratios)


def make_head_round(inputs: np.ndarray, labels: np.ndarray):
    """A round of the head phase."""
    defaults = config.TrainConfig(data_dir="records", job_dir="run")
    settings = dataclasses.replace(
        run.make_head_settings(dataclasses.asdict(defaults), 2),
        head_epochs=HEAD_EPOCHS,
        patience=HEAD_EPOCHS,
        global_batch_size=BATCH,
    )
    judged = np.arange(2)

    def train() -> float:
        start = time.perf_counter()
        trained = head_training.train_head(
            settings,
            [inputs],
            np.arange(len(labels)),
            labels,
            inputs[judged],
            labels[judged],
        )
        seconds = time.perf_counter() - start
        return seconds / trained.history[-1]["step"]

    return train


def compare_head() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(NUM_FEATURE_IMAGES, classifier.NUM_FEATURES))
    inputs = inputs.astype(np.float16)
    labels = rng.integers(0, 2, NUM_FEATURE_IMAGES).astype(np.int32)
    num_steps = NUM_FEATURE_IMAGES // BATCH * HEAD_EPOCHS

    def make_dataset():
        dataset = tf.data.Dataset.from_tensor_slices(
            {"inputs": inputs.astype(np.float32), "labels": labels}
        )
        return dataset.shuffle(NUM_FEATURE_IMAGES).repeat().batch(BATCH)

    contestants = {"Lightbox": make_head_round(inputs, labels)}
    for name, jit_compile in (("fit", False), ("fit with XLA", True)):
        contestants[name] = make_fit_round(
            classifier.build_head(2, (), 0.3, keras.layers.Dropout),
            make_dataset,
            num_steps,
            jit_compile,
        )
    compare("head", contestants)


def compare_fine_tuning() -> None:
    info = input_pipeline.read_dataset_info(FLAGS.data_dir)

    def make_dataset():
        return input_pipeline.make_train_dataset(
            input_pipeline.split_files(FLAGS.data_dir, info, "train"),
            shard_sizes=info.shard_sizes("train"),
            image_size=FLAGS.image_size,
            channels=info.channels,
            augmentation=augmentation.Augmentation(),
            global_batch_size=BATCH,
            per_replica_batch_size=BATCH,
            seed=0,
        )

    def model(layer):
        head = classifier.build_head(2, (), 0.3, layer)
        built = classifier.build_classifier(
            FLAGS.image_size, info.channels, head, "none", layer
        )
        classifier.set_trainable(built, 2, train_batch_norm=False)
        return built

    # XLA makes convolutions on a CPU ten times slower: no peer to take.
    compare(
        "fine-tune",
        {
            "Lightbox": make_loop_round(
                "fine_tune",
                model,
                make_dataset,
                FINE_TUNE_STEPS,
            ),
            "fit": make_fit_round(
                model(keras.layers.Dropout),
                make_dataset,
                FINE_TUNE_STEPS,
                jit_compile=False,
            ),
        },
    )


def make_step_round(environment: str, framework: str, backend: str):
    """A round of `training_steps.py`."""
    script = environments.Script(
        environment,
        "training_steps.py",
        framework,
        KERAS_BACKEND=backend,
        # Waiting threads of PyTorch else take the cores of those that work.
        OMP_WAIT_POLICY="PASSIVE",
    )
    return lambda: training_steps.BATCH / script.take_turn()


def compare_step() -> None:
    contestants = {
        name: make_step_round(environment, framework, backend)
        for name, environment, framework, backend in (
            ("Lightbox", environments.OURS, "lightbox", "tensorflow"),
            ("timm on PyTorch", "torch", "timm", "torch"),
            ("Keras on TensorFlow", environments.OURS, "keras", "tensorflow"),
            ("Keras on PyTorch", "torch", "keras", "torch"),
            ("Keras on JAX", "jax", "keras", "jax"),
        )
        if environments.is_installed(environment)
    }
    compare("the whole network", contestants)


def main(argv):
    del argv
    compare_head()
    compare_fine_tuning()
    compare_step()


if __name__ == "__main__":
    app.run(main)
