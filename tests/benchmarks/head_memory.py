"""Memory and time of the head phase on feature files of growing size.

    python -m tests.benchmarks.head_memory

Each size runs in a process of its own: eight views of features in files, as a
run keeps them, then the head phase on them. What counts is how far the largest
resident size of the process, pages of files included, lies above that of the
process with TensorFlow loaded and its graphs traced.
"""

import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_multi_integer(
    "num_images", [6_250, 25_000, 100_000], "Training images."
)
flags.DEFINE_integer("num_views", 8, "Of each image.")
flags.DEFINE_integer("num_epochs", 16, "Of the head phase.")
flags.DEFINE_bool("child", False, "Measure one size in this process.")


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(num_images: int) -> None:
    from trainer import config, run
    from trainer.model import classifier
    from trainer.training import features, head_training

    defaults = config.TrainConfig(data_dir="records", job_dir="run")
    settings = dataclasses.replace(
        run.make_head_settings(dataclasses.asdict(defaults), 2),
        head_epochs=FLAGS.num_epochs,
        patience=FLAGS.num_epochs,
    )

    def fill(outputs):
        rng = np.random.default_rng(0)
        for start in range(0, len(outputs), 1000):
            rows = outputs[start : start + 1000]
            rows[:] = rng.random(rows.shape, np.float32)

    def load(directory, view, rows):
        shape = (rows, classifier.NUM_FEATURES)
        facts = {"view": view, "rows": rows}
        return features.load_or_compute(directory, facts, shape, fill)

    def train(views, validation):
        num_rows = len(views[0])
        labels = (np.arange(num_rows) % 2).astype(np.int32)
        head_training.train_head(
            settings,
            views,
            np.arange(num_rows),
            labels,
            validation,
            labels[: len(validation)],
        )

    with tempfile.TemporaryDirectory() as directory:
        small = load(directory, 0, 64)
        train([small], small)
        before = peak_megabytes()
        views = [
            load(directory, view, num_images) for view in range(FLAGS.num_views)
        ]
        validation = load(directory, 0, num_images // 8)
        with_features = peak_megabytes()
        start = time.perf_counter()
        train(views, validation)
        seconds = time.perf_counter() - start
        num_bytes = sum(entry.stat().st_size for entry in os.scandir(directory))
    places = num_images * FLAGS.num_epochs
    print(
        f"{num_images:7} images, {num_bytes / 1e6:5.0f} MB of files: "
        f"+{with_features - before:.0f} MB while a view is computed, "
        f"+{peak_megabytes() - before:.0f} MB in all; "
        f"{places / seconds:.0f} images/s"
    )


def main(argv):
    del argv
    if FLAGS.child:
        measure(FLAGS.num_images[0])
        return
    for num_images in FLAGS.num_images:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.head_memory",
                "--child",
                f"--num_images={num_images}",
                f"--num_views={FLAGS.num_views}",
                f"--num_epochs={FLAGS.num_epochs}",
            ],
            check=True,
        )


if __name__ == "__main__":
    app.run(main)
