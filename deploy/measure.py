"""Measures what training costs on this machine, for `deploy.plan`.

    python -m deploy.measure --data_dir=records --output=step_costs.json

The trainer's own model and steps on one device, with images that are there
already; and how fast the images of --data_dir come, augmented.
"""

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

from absl import app, flags

from trainer import startup

FLAGS = flags.FLAGS
_ROUNDS = 5
_INPUT_BATCHES = 40


def _define_flags() -> None:
    flags.DEFINE_string(
        "data_dir", None, "Records that build_records wrote.", required=True
    )
    flags.DEFINE_string(
        "output", "step_costs.json", "File that is written, for deploy.plan."
    )
    flags.DEFINE_integer("image_size", 224, "Of the images, in pixels.")
    flags.DEFINE_integer("batch_size", 32, "Images of a step.")
    flags.DEFINE_list(
        "fine_tune_blocks", ["2", "4", "9"], "Depths of fine-tuning, of 9."
    )


def _images_per_second(run: Callable[[], object], batch_size: int) -> float:
    run()
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return batch_size / statistics.median(seconds)


def measure(image_size: int, batch_size: int, depths: list[int]) -> dict:
    """Images a second of the trainer's steps on one device.

    Returns:
        `forward`, of features and evaluation, and `fine_tune`: blocks -> of a
        training step that updates them.
    """
    import keras
    import tensorflow as tf

    from trainer.model import classifier, losses

    head = classifier.build_head(2, (), dropout=0.3)
    model = classifier.build_classifier(image_size, channels=1, head=head)
    images = tf.random.uniform(
        (batch_size, image_size, image_size, 1), 0, 255, seed=0
    )
    labels = tf.range(batch_size) % 2
    forward = tf.function(lambda: model(images, training=False))
    found = {
        "forward": _images_per_second(lambda: forward().numpy(), batch_size),
        "fine_tune": {},
    }
    for depth in depths:
        classifier.set_trainable(model, depth, train_batch_norm=False)
        optimizer = keras.optimizers.AdamW(1e-4)
        optimizer.build(model.trainable_variables)

        def step(optimizer=optimizer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(
                    losses.cross_entropy(labels, model(images, training=True))
                )
            variables = model.trainable_variables
            optimizer.apply_gradients(
                zip(tape.gradient(loss, variables), variables, strict=True)
            )
            return loss

        compiled = tf.function(step)
        found["fine_tune"][str(depth)] = _images_per_second(
            lambda compiled=compiled: compiled().numpy(), batch_size
        )
    return found


def measure_input(data_dir: str, image_size: int, batch_size: int) -> float:
    """Images a second that all cores of this machine make ready to train on."""
    from trainer.data import augmentation, input_pipeline

    info = input_pipeline.read_dataset_info(data_dir)
    batches = iter(
        input_pipeline.make_train_dataset(
            input_pipeline.split_files(data_dir, info, "train"),
            shard_sizes=info.shard_sizes("train"),
            image_size=image_size,
            channels=info.channels,
            augmentation=augmentation.Augmentation(),
            global_batch_size=batch_size,
            per_replica_batch_size=batch_size,
            seed=0,
        )
    )

    def take():
        for _ in range(_INPUT_BATCHES):
            next(batches)

    return _images_per_second(take, _INPUT_BATCHES * batch_size)


def _device() -> str:
    import tensorflow as tf

    for kind in ("TPU", "GPU"):
        devices = tf.config.list_physical_devices(kind)
        if devices:
            details = tf.config.experimental.get_device_details(devices[0])
            return details.get("device_name", kind)
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    startup.import_tensorflow()
    import tensorflow as tf

    try:
        speed = measure_input(
            FLAGS.data_dir, FLAGS.image_size, FLAGS.batch_size
        )
    except (ValueError, OSError) as error:
        sys.exit(f"deploy.measure: {error}")
    found = measure(
        FLAGS.image_size,
        FLAGS.batch_size,
        [int(depth) for depth in FLAGS.fine_tune_blocks],
    )
    content = {
        "measured_on": _device(),
        "num_cpus": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
        "tensorflow": tf.__version__,
        "image_size": FLAGS.image_size,
        "batch_size": FLAGS.batch_size,
        "images_per_second": {
            "input": round(speed, 1),
            "forward": round(found["forward"], 1),
            "fine_tune": {
                depth: round(steps, 1)
                for depth, steps in found["fine_tune"].items()
            },
        },
    }
    with open(FLAGS.output, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
