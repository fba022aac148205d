r"""Test ROC AUC and accuracy over seeds, by the commands a user runs.

    python -m tests.benchmarks.accuracy --input_dir=scans --weights=FILE
    python -m tests.benchmarks.accuracy --manifest=CSV --on_leak=allow \
      --weights=FILE -- --num_folds=5 --ensemble

Each seed splits the images anew, unless a manifest gives the splits, and
trains with default settings but for the trainer's flags after `--`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
METRICS = ("roc_auc", "accuracy")
BUILD_FLAGS = ("input_dir", "manifest", "on_leak")


def run_seed(directory: str, seed: int, flags_of_task: list[str]) -> list:
    """Builds, trains and returns the test metrics of one seed."""
    records = os.path.join(directory, "records")
    job = os.path.join(directory, "run")
    for module, *arguments in (
        (
            "trainer.data.build_records",
            *(f"--{name}={FLAGS[name].value}" for name in BUILD_FLAGS),
            f"--output_dir={records}",
        ),
        (
            "trainer.task",
            f"--data_dir={records}",
            f"--job_dir={job}",
            f"--weights={FLAGS.weights}",
            *flags_of_task,
        ),
    ):
        subprocess.run(
            [sys.executable, "-m", module, *arguments, f"--seed={seed}"],
            check=True,
            capture_output=True,
        )
    with open(os.path.join(job, "evaluation", "metrics.json")) as file:
        found = json.load(file)["splits"]["test"]["metrics"]
    return [(found[name]["value"], found[name]["interval"]) for name in METRICS]


def main(argv):
    rows = []
    for seed in range(FLAGS.num_seeds):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            rows.append(run_seed(directory, seed, argv[1:]))
        minutes = (time.monotonic() - started) / 60
        figures = (
            f"{name} {value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
            for name, (value, interval) in zip(METRICS, rows[-1], strict=True)
        )
        print(f"seed {seed}", *figures, f"{minutes:.0f} min", flush=True)
    values = [[value for value, _ in row] for row in rows]
    means = zip(METRICS, np.mean(values, axis=0), strict=True)
    print("mean  ", *(f"{n} {v:.3f}" for n, v in means))


if __name__ == "__main__":
    flags.DEFINE_string("input_dir", "", "Class folders.")
    flags.DEFINE_string("manifest", "", "As of build_records.")
    flags.DEFINE_string("on_leak", "error", "As of build_records.")
    flags.DEFINE_string("weights", None, "As of trainer.task.", required=True)
    flags.DEFINE_integer("num_seeds", 3, "Seeds from 0 on.")
    app.run(main)
