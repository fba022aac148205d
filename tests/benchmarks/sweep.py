"""A sweep of heads against stock keras-tuner, which trains the whole model.

    python -m tests.benchmarks.sweep --data_dir=records --weights=FILE

Both search as many configurations of a head on the frozen EfficientNetB0, ten
epochs each with augmentation, from the start of the process to its end. The
stock side is what keras-tuner's guide shows: a hypermodel with Keras'
augmentation layers, `fit` and validation AUC, on decoded images in memory. It
may run fewer trials (`--num_stock_trials`): then the time of a trial is taken
times the number, and the output says so.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Records.", required=True)
flags.DEFINE_string("weights", None, "Of the backbone.", required=True)
flags.DEFINE_integer("image_size", 224, "In pixels.")
flags.DEFINE_multi_integer("num_trials", [20, 100], "Sizes of the sweeps.")
flags.DEFINE_integer("num_stock_trials", 20, "That stock keras-tuner runs.")
flags.DEFINE_bool("stock", False, "Be the stock side.")

NUM_EPOCHS = 10
BATCH = 32


def run_stock() -> None:
    """Trains the trials; prints the seconds of start and of each trial."""
    start = time.perf_counter()
    import keras
    import keras_tuner
    import numpy as np

    from trainer.data import input_pipeline, preprocessing

    info = input_pipeline.read_dataset_info(FLAGS.data_dir)
    index = input_pipeline.read_index(FLAGS.data_dir, info)

    def read(split):
        files = input_pipeline.split_files(FLAGS.data_dir, info, split)
        images = [
            preprocessing.prepare_image(encoded, FLAGS.image_size, 3).numpy()
            for encoded in input_pipeline.iterate_encoded(files)
        ]
        return np.stack(images), np.array(index[split].labels)

    def build(hp):
        augment = keras.Sequential(
            [
                keras.layers.RandomRotation(15 / 360),
                keras.layers.RandomTranslation(0.08, 0.08),
                keras.layers.RandomZoom(0.12),
                keras.layers.RandomFlip("horizontal"),
            ]
        )
        backbone = keras.applications.EfficientNetB0(
            include_top=False,
            weights=FLAGS.weights,
            input_shape=(FLAGS.image_size, FLAGS.image_size, 3),
            pooling="avg",
        )
        backbone.trainable = False
        inputs = keras.Input((FLAGS.image_size, FLAGS.image_size, 3))
        x = backbone(augment(inputs), training=False)
        for i in range(hp.Choice("num_hidden_layers", [0, 1, 2])):
            x = keras.layers.Dropout(hp.Float("dropout", 0.0, 0.7))(x)
            units = hp.Choice("hidden_units", [32, 64, 128, 256]) // 2**i
            x = keras.layers.Dense(units, activation="relu")(x)
        x = keras.layers.Dense(1, activation="sigmoid")(x)
        model = keras.Model(inputs, x)
        model.compile(
            keras.optimizers.AdamW(
                hp.Float("head_learning_rate", 1e-4, 3e-2, sampling="log")
            ),
            "binary_crossentropy",
            metrics=[keras.metrics.AUC(name="auc")],
            # XLA makes convolutions on a CPU ten times slower.
            jit_compile=False,
        )
        return model

    with tempfile.TemporaryDirectory() as directory:
        tuner = keras_tuner.RandomSearch(
            build,
            keras_tuner.Objective("val_auc", "max"),
            max_trials=FLAGS.num_stock_trials,
            seed=1,
            directory=directory,
        )
        train, validation = read("train"), read("validation")
        begun = time.perf_counter()
        tuner.search(
            *train,
            validation_data=validation,
            epochs=NUM_EPOCHS,
            batch_size=BATCH,
            verbose=0,
        )
        ended = time.perf_counter()
    print(
        json.dumps(
            {
                "start": begun - start,
                "trial": (ended - begun) / FLAGS.num_stock_trials,
            }
        )
    )


def time_lightbox(num_trials: int) -> float:
    """Seconds of a whole sweep, with nothing in the cache."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "tuning.task",
                f"--data_dir={FLAGS.data_dir}",
                f"--job_dir={directory}/sweep",
                f"--features_dir={directory}/features",
                f"--weights={FLAGS.weights}",
                f"--image_size={FLAGS.image_size}",
                f"--head_epochs={NUM_EPOCHS}",
                f"--max_trials={num_trials}",
            ],
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - start


def main(argv):
    del argv
    if FLAGS.stock:
        run_stock()
        return
    output = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.benchmarks.sweep",
            "--stock",
            *sys.argv[1:],
        ],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    ).stdout
    stock = json.loads(output.strip().splitlines()[-1])
    for num_trials in FLAGS.num_trials:
        ours = time_lightbox(num_trials)
        theirs = stock["start"] + num_trials * stock["trial"]
        how = "measured"
        if num_trials != FLAGS.num_stock_trials:
            how = f"extrapolated from {FLAGS.num_stock_trials} trials"
        print(
            f"{num_trials} trials: Lightbox {ours:.0f} s, stock keras-tuner "
            f"{theirs:.0f} s ({how}): {theirs / ours:.1f} times as fast",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
