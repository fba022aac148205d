"""A sweep of heads against stock keras-tuner, which trains the whole model.

    python -m tests.benchmarks.sweep --data_dir=records --weights=FILE

Both train the same configurations of a head on the frozen EfficientNetB0, ten
epochs each with a new augmentation in every epoch, from the start of the
process to its end. The stock side is what keras-tuner's guide shows: a
hypermodel and `fit`, here on a dataset of decoded images in memory with the
same augmentation (on this small set another one moves the AUC by 0.03); a
trial's score is the validation AUC of its epoch with the lowest validation
loss, as in a sweep. For sweeps of other sizes than
`--num_stock_trials` the time of its trials is extrapolated, and the output
says so.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from tests.benchmarks.ratios import tell

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Records.", required=True)
flags.DEFINE_string("weights", None, "Of the backbone.", required=True)
flags.DEFINE_integer("image_size", 224, "In pixels.")
flags.DEFINE_multi_integer("num_trials", [20, 100], "Sizes of the sweeps.")
flags.DEFINE_integer("num_stock_trials", 20, "That stock keras-tuner runs.")
flags.DEFINE_string("configurations", "", "JSON file to be the stock side of.")

NUM_EPOCHS = 10
BATCH = 32
# What a stock search has too; the rest is fixed to what `fit` does.
SPACE = {
    "schedule": ["constant"],
    "global_batch_size": [BATCH],
    "label_smoothing": 0.0,
    "class_weights": ["none"],
    "focal_gamma": [0.0],
    "augmentation_strength": [1.0],
}


def run_stock() -> None:
    """Trains the configurations; prints seconds and the AUC of each."""
    start = time.perf_counter()
    import keras
    import keras_tuner
    import numpy as np
    import tensorflow as tf

    from trainer.data import augmentation, input_pipeline, preprocessing
    from trainer.model import classifier

    with open(FLAGS.configurations, encoding="utf-8") as file:
        configurations = json.load(file)
    info = input_pipeline.read_dataset_info(FLAGS.data_dir)
    index = input_pipeline.read_index(FLAGS.data_dir, info)

    def read(split):
        files = input_pipeline.split_files(FLAGS.data_dir, info, split)
        return list(input_pipeline.iterate_encoded(files)), np.array(
            index[split].labels
        )

    def make_train_dataset():
        ranges = augmentation.Augmentation(brightness=0.0, contrast=0.0)

        def augment(image_and_label, number):
            image, label = image_and_label
            seed = tf.stack([number, 0])
            return (
                augmentation.augment_image(
                    image, seed, FLAGS.image_size, ranges
                ),
                label,
            )

        encoded, labels = read("train")
        decoded = (
            tf.data.Dataset.from_tensor_slices((encoded, labels))
            .map(lambda e, y: (preprocessing.decode_image(e, 3), y))
            .cache()
            .shuffle(len(labels))
        )
        return (
            tf.data.Dataset.zip(decoded, tf.data.Dataset.random(seed=1))
            .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(BATCH)
            .prefetch(tf.data.AUTOTUNE)
        )

    def build(hp):
        values = configurations[
            hp.Choice("configuration", list(range(len(configurations))))
        ]
        backbone = keras.applications.EfficientNetB0(
            include_top=False,
            weights=FLAGS.weights,
            input_shape=(FLAGS.image_size, FLAGS.image_size, 3),
            pooling="avg",
        )
        backbone.trainable = False
        inputs = keras.Input((FLAGS.image_size, FLAGS.image_size, 3))
        x = backbone(inputs, training=False)
        for i in range(values["num_hidden_layers"]):
            x = keras.layers.Dropout(values["dropout"])(x)
            x = keras.layers.Dense(values["hidden_units"] // 2**i)(x)
            if values["head_batch_norm"]:
                momentum = classifier.BATCH_NORM_MOMENTUM
                x = keras.layers.BatchNormalization(momentum=momentum)(x)
            x = keras.layers.Activation(values["head_activation"])(x)
        x = keras.layers.Dropout(values["dropout"])(x)
        x = keras.layers.Dense(1, activation="sigmoid")(x)
        model = keras.Model(inputs, x)
        rate, decay = values["head_learning_rate"], values["weight_decay"]
        if values["optimizer"] == "sgd":
            optimizer = keras.optimizers.SGD(
                rate, momentum=0.9, nesterov=True, weight_decay=decay
            )
        else:
            optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
        model.compile(
            optimizer,
            "binary_crossentropy",
            metrics=[keras.metrics.AUC(1000, name="auc")],
            # XLA makes convolutions on a CPU ten times slower.
            jit_compile=False,
        )
        return model

    class HyperModel(keras_tuner.HyperModel):
        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, *args, **kwargs):
            history = model.fit(*args, **kwargs).history
            lowest = int(np.argmin(history["val_loss"]))
            return {"val_auc": history["val_auc"][lowest]}

    with tempfile.TemporaryDirectory() as directory:
        tuner = keras_tuner.GridSearch(
            HyperModel(),
            keras_tuner.Objective("val_auc", "max"),
            max_trials=len(configurations),
            seed=1,
            directory=directory,
        )
        train = make_train_dataset()
        encoded, labels = read("validation")
        images = [
            preprocessing.prepare_image(one, FLAGS.image_size, 3).numpy()
            for one in encoded
        ]
        begun = time.perf_counter()
        tuner.search(
            train,
            validation_data=(np.stack(images), labels),
            epochs=NUM_EPOCHS,
            verbose=0,
        )
        ended = time.perf_counter()
    scores = {
        trial.hyperparameters.values["configuration"]: trial.score
        for trial in tuner.oracle.trials.values()
    }
    print(
        json.dumps(
            {
                "start": begun - start,
                "trial": (ended - begun) / len(configurations),
                "scores": [scores[i] for i in range(len(configurations))],
            }
        )
    )


def run_lightbox(num_trials: int, directory: str):
    """Seconds of a whole sweep with nothing in the cache, and its trials."""
    space = os.path.join(directory, "space.json")
    with open(space, "w", encoding="utf-8") as file:
        json.dump(SPACE, file)
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
            f"--feature_views={NUM_EPOCHS}",
            f"--global_batch_size={BATCH}",
            "--warmup_fraction=0",
            "--brightness=0",
            "--contrast=0",
            f"--search_space={space}",
            f"--max_trials={num_trials}",
        ],
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - start
    with open(f"{directory}/sweep/trials.jsonl", encoding="utf-8") as file:
        trials = [json.loads(line) for line in file]
    return seconds, [t["values"] for t in trials], [t["score"] for t in trials]


def describe_agreement(ours: list[float], theirs: list[float]) -> str:
    """How near the AUC of the ten best configurations of both sides are."""

    def best(scores):
        return set(sorted(range(len(scores)), key=lambda i: -scores[i])[:10])

    both = sorted(best(ours) & best(theirs))
    gaps = [abs(ours[i] - theirs[i]) for i in both]
    means = [sum(sorted(s)[-10:]) / min(10, len(s)) for s in (ours, theirs)]
    print("validation AUC, Lightbox and stock:")
    for one, other in zip(ours, theirs, strict=True):
        print(f"  {one:.4f} {other:.4f}")
    return (
        f"{len(both)} configurations are among the ten best of both; their "
        f"validation AUC differs by {sum(gaps) / len(gaps):.4f} on average and "
        f"{max(gaps):.4f} at most; the ten best have {means[0]:.4f} (Lightbox) "
        f"and {means[1]:.4f} (stock) on average."
    )


def main(argv):
    del argv
    if FLAGS.configurations:
        run_stock()
        return
    stock = {}
    for num_trials in FLAGS.num_trials:
        with tempfile.TemporaryDirectory() as directory:
            ours, values, scores = run_lightbox(num_trials, directory)
        print(f"{num_trials} trials: Lightbox {ours:.0f} s", flush=True)
        if not stock:
            count = FLAGS.num_stock_trials
            stock = measure_stock(values[:count])
            print(describe_agreement(scores[:count], stock["scores"]))
        theirs = stock["start"] + num_trials * stock["trial"]
        how = "measured"
        if num_trials != FLAGS.num_stock_trials:
            how = f"extrapolated from {FLAGS.num_stock_trials} trials"
        print(f"Stock keras-tuner {theirs:.0f} s ({how})", flush=True)
        tell(f"A sweep of {num_trials} trials", "keras-tuner", [theirs / ours])


def measure_stock(values: list[dict]) -> dict:
    """What `run_stock` prints, from a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        output = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.sweep",
                *sys.argv[1:],
                f"--configurations={file.name}",
            ],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        ).stdout
    return json.loads(output.strip().splitlines()[-1])


if __name__ == "__main__":
    app.run(main)
