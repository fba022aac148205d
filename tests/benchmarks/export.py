"""An exported version against the same model written by `model.export`.

    python -m tests.benchmarks.export --job_dir=run --data_dir=records

Both get the same pixels, one image at a time, and take turns; the ratio of
their median times counts: above 1 the frozen export is faster. Also shown:
sizes, load times, and how far the answers of every test image lie from
`predictions.csv`, by each signature, in batches of 1 and 32.
"""

import csv
import os
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from trainer.data import input_pipeline, preprocessing
from trainer.export import signature

FLAGS = flags.FLAGS
flags.DEFINE_string("job_dir", None, "Finished run.", required=True)
flags.DEFINE_string("data_dir", None, "Its records.", required=True)
flags.DEFINE_integer("version", 1, "Of the export.")
flags.DEFINE_integer("num_rounds", 300, "Calls of each.")


def megabytes(directory: str) -> float:
    return 1e-6 * sum(
        os.path.getsize(os.path.join(place, name))
        for place, _, names in os.walk(directory)
        for name in names
    )


def load(directory: str):
    start = time.perf_counter()
    loaded = tf.saved_model.load(directory)
    print(
        f"{directory}: {megabytes(directory):.1f} MB, loads in "
        f"{time.perf_counter() - start:.2f} s"
    )
    return loaded


def make_call(function, values):
    (name,) = function.structured_input_signature[1]
    tensor = tf.constant(values)
    return lambda: [
        (key, output.numpy())
        for key, output in function(**{name: tensor}).items()
    ]


def time_in_turns(calls: dict) -> dict[str, float]:
    """Median milliseconds of each."""
    times = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(5):
            call()
    for _ in range(FLAGS.num_rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def show_parity(signatures, images, pixels, expected) -> None:
    values = {
        signature.SERVING_DEFAULT: images,
        signature.EXPLAIN: images,
        signature.PIXELS: pixels,
    }
    for name, given in values.items():
        for batch_size in (1, 32):
            parts = [
                dict(make_call(signatures[name], given[i : i + batch_size])())
                for i in range(0, len(given), batch_size)
            ]
            found = np.concatenate(
                [part[signature.PROBABILITIES] for part in parts]
            )
            furthest = np.max(np.abs(found - expected))
            print(
                f"{name:16s} batches of {batch_size:2d}: {len(found)} images "
                f"within {furthest:.1e}"
            )


def main(argv):
    del argv
    info = input_pipeline.read_dataset_info(FLAGS.data_dir)
    files = input_pipeline.split_files(FLAGS.data_dir, info, "test")
    images = list(input_pipeline.iterate_encoded(files))
    model = keras.models.load_model(
        os.path.join(FLAGS.job_dir, "medical_image_classifier.keras"),
        compile=False,
    )
    _, image_size, _, channels = model.input.shape
    pixels = np.stack(
        [preprocessing.prepare_image(i, image_size, channels) for i in images]
    )
    with tempfile.TemporaryDirectory() as directory:
        model.export(directory, verbose=False)
        by_keras = load(directory)
    frozen = load(os.path.join(FLAGS.job_dir, "export", str(FLAGS.version)))
    calls = {
        "model.export": make_call(
            by_keras.signatures["serving_default"], pixels[:1]
        ),
        "pixels": make_call(frozen.signatures[signature.PIXELS], pixels[:1]),
        "serving_default": make_call(
            frozen.signatures[signature.SERVING_DEFAULT], images[:1]
        ),
        "explain": make_call(frozen.signatures[signature.EXPLAIN], images[:1]),
    }
    times = time_in_turns(calls)
    for name, found in times.items():
        print(f"{name:16s} {found:6.2f} ms an image")
    ratio = times["model.export"] / times["pixels"]
    print(f"The export is {ratio:.2f} times as fast as model.export's.")
    path = os.path.join(FLAGS.job_dir, "evaluation", "predictions.csv")
    with open(path, newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "test"]
    columns = [f"probability_{name}" for name in info.class_names]
    expected = np.array([[float(row[c]) for c in columns] for row in rows])
    show_parity(frozen.signatures, images, pixels, expected)


if __name__ == "__main__":
    app.run(main)
