"""A sweep by two worker processes against the same sweep by one.

    python -m tests.benchmarks.sweep_workers --data_dir=records --weights=FILE

From the start of the command to its end, with the features in the cache, in
turns. Trials are judged on five folds with two seeds, so that they take longer
than the processes take to start.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Records.", required=True)
flags.DEFINE_string("weights", None, "Of the backbone.", required=True)
flags.DEFINE_integer("num_trials", 40, "Trials of a sweep.")
flags.DEFINE_integer("num_rounds", 2, "Pairs of sweeps.")


def run(directory: str, name: str, *arguments: str) -> float:
    """Seconds of a sweep."""
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tuning.task",
            f"--data_dir={FLAGS.data_dir}",
            f"--job_dir={directory}/{name}",
            f"--features_dir={directory}/features",
            f"--weights={FLAGS.weights}",
            "--num_folds=5",
            "--executions_per_trial=2",
            *arguments,
        ],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def read_trials(directory: str, name: str) -> list[dict]:
    """What was tried and found, without the time it took."""
    with open(os.path.join(directory, name, "trials.csv"), newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["trial"])
    for row in rows:
        del row["seconds"]
    return rows


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as directory:
        run(directory, "warm", "--max_trials=1")
        ratios = []
        trials = f"--max_trials={FLAGS.num_trials}"
        for i in range(FLAGS.num_rounds):
            one = run(directory, f"one{i}", trials)
            two = run(directory, f"two{i}", trials, "--num_workers=2")
            ratios.append(two / one)
            same = read_trials(directory, f"one{i}") == read_trials(
                directory, f"two{i}"
            )
            print(
                f"{FLAGS.num_trials} trials: one process {one:.0f} s, two "
                f"workers {two:.0f} s ({two / one:.2f} of it), "
                f"{'the same' if same else 'OTHER'} trials and scores.",
                flush=True,
            )
    print(f"Two workers take {statistics.median(ratios):.2f} of the time.")


if __name__ == "__main__":
    app.run(main)
