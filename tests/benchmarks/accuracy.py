"""Test ROC AUC and accuracy over seeds, by the commands a user runs.

    python -m tests.benchmarks.accuracy --input_dir=scans --weights=FILE

Each seed splits the images anew and trains with default settings.
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
METRICS = ("roc_auc", "accuracy")


def run_seed(directory: str, seed: int, flags_of_task: list[str]) -> list:
    """Builds, trains and returns the test metrics of one seed."""
    records = os.path.join(directory, "records")
    job = os.path.join(directory, "run")
    for module, *arguments in (
        (
            "trainer.data.build_records",
            f"--input_dir={FLAGS.input_dir}",
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
        with tempfile.TemporaryDirectory() as directory:
            rows.append(run_seed(directory, seed, argv[1:]))
        figures = (
            f"{name} {value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
            for name, (value, interval) in zip(METRICS, rows[-1], strict=True)
        )
        print(f"seed {seed}", *figures, flush=True)
    values = [[value for value, _ in row] for row in rows]
    means = zip(METRICS, np.mean(values, axis=0), strict=True)
    print("mean  ", *(f"{n} {v:.3f}" for n, v in means))


if __name__ == "__main__":
    flags.DEFINE_string("input_dir", None, "Class folders.", required=True)
    flags.DEFINE_string("weights", None, "As of trainer.task.", required=True)
    flags.DEFINE_integer("num_seeds", 3, "Seeds from 0 on.")
    app.run(main)
