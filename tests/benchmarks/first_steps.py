"""Prints when a training run is at its first step, and its rate after that.

    python first_steps.py RUN STEPS DEVICES ARGUMENTS...

`distribution.py` runs it: RUN is `trainer.task`, with its flags, or a plain
script of `Model.fit`, `fit`, with the folder of records, the weights, the size
of the images and the batch. It ends after STEPS; DEVICES logical ones stand
for the GPUs of a machine. Printed are seconds since the epoch at the first
step, and the median of seconds of the others.
"""

import glob
import os
import runpy
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf


class Clock:
    """Ends the process after some steps."""

    def __init__(self, num_steps: int):
        self._num_steps, self._times = num_steps, []

    def tick(self) -> None:
        self._times.append(time.time())
        if len(self._times) <= self._num_steps:
            return
        first, second, *others = self._times
        # A second trace, of what the first step created, is none of them.
        gaps = [b - a for a, b in zip([second, *others], others, strict=False)]
        print(first, statistics.median(gaps), flush=True)
        if '"index": 1' in os.environ.get("TF_CONFIG", ""):
            time.sleep(600)  # The first worker may still read what it sent.
        os._exit(0)


def trainer_task(clock: Clock, arguments: list[str]) -> None:
    """The product's command, one step a call."""
    from trainer.training import train_step

    make_train_function = train_step.make_train_function

    def make_timed(*args, **kwargs):
        train_steps = make_train_function(*args, **kwargs)

        def take_step(*args):
            sums = train_steps(*args)
            sums.numpy()
            clock.tick()
            return sums

        return take_step

    train_step.make_train_function = make_timed
    sys.argv = ["trainer.task", *arguments, "--steps_per_execution=1"]
    runpy.run_module("trainer.task", run_name="__main__", alter_sys=True)


def fit(clock: Clock, arguments: list[str]) -> None:
    """What a guide shows: the same model and images, not augmented."""
    data_dir, weights, image_size, batch = arguments
    size = [int(image_size)] * 2

    def parse(serialized):
        example = tf.io.parse_single_example(
            serialized,
            {
                "image/encoded": tf.io.FixedLenFeature([], tf.string),
                "image/class/label": tf.io.FixedLenFeature([1], tf.int64),
            },
        )
        image = tf.io.decode_image(
            example["image/encoded"], channels=3, expand_animations=False
        )
        return tf.image.resize(image, size), example["image/class/label"]

    files = glob.glob(os.path.join(data_dir, "train-*.tfrecord"))
    dataset = tf.data.TFRecordDataset(files).shuffle(4096).repeat()
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(int(batch), drop_remainder=True).prefetch(2)
    strategy = tf.distribute.get_strategy()
    if len(devices := tf.config.list_logical_devices("CPU")) > 1:
        strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
    with strategy.scope():
        backbone = keras.applications.EfficientNetB0(
            include_top=False,
            weights=weights,
            input_shape=(*size, 3),
            pooling="avg",
        )
        outputs = keras.layers.Dropout(0.3)(backbone.output)
        model = keras.Model(backbone.input, keras.layers.Dense(1)(outputs))
        for layer in model.layers:
            layer.trainable = not isinstance(
                layer, keras.layers.BatchNormalization
            )
        model.compile(
            keras.optimizers.AdamW(3e-4),
            keras.losses.BinaryCrossentropy(from_logits=True),
            jit_compile=False,
        )
    tick = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: clock.tick()
    )
    model.fit(dataset, steps_per_epoch=1000, verbose=0, callbacks=[tick])


if __name__ == "__main__":
    _, name, num_steps, num_devices, *arguments = sys.argv
    if num_devices != "1":
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * int(num_devices),
        )
    {"trainer.task": trainer_task, "fit": fit}[name](
        Clock(int(num_steps)), arguments
    )
