"""Commands on records and runs of tests, and what they leave."""

import contextlib
import csv
import json
import re
import signal

import keras

from tests import processes
from trainer.training import features

TRAIN_FLAGS = (
    "--image_size=32",
    "--global_batch_size=8",
    "--head_epochs=60",
    "--patience=60",
    "--feature_views=2",
    "--fine_tune_epochs=2",
    "--fine_tune_blocks=2",
    "--steps_per_execution=1",
)


def command(module, *arguments, expect=0):
    """Runs `python -m module` and returns its standard output."""
    done = processes.run(module, *arguments)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if expect else done.stdout


def train_arguments(workspace, job_dir):
    return [
        f"--data_dir={workspace / 'records'}",
        f"--job_dir={workspace / job_dir}",
        f"--weights={workspace / 'backbone.weights.h5'}",
        *TRAIN_FLAGS,
    ]


def read_predictions(workspace, split):
    path = workspace / "run/evaluation/predictions.csv"
    with open(path, newline="") as file:
        return [r for r in csv.DictReader(file) if r["split"] == split]


@contextlib.contextmanager
def serving_from(model_base_path):
    """Addresses of a local server on a base path."""
    process = processes.Command(
        "serving.local_server",
        f"--model_base_path={model_base_path}",
        "--model_name=classifier",
        "--port=0",
        "--rest_api_port=0",
    )
    line = process.read_line()
    targets = re.findall(r"(?:grpc|http)://[\d.]+:\d+", line)
    assert len(targets) == 2, line
    yield dict(zip(("grpc", "rest"), targets, strict=True))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def ask(target, files):
    """What `serving.predict` says of files."""
    output = command(
        "serving.predict",
        f"--target={target}",
        "--model_name=classifier",
        "--json",
        *files,
    )
    return json.loads(output)["predictions"]


def history_without_timing(job_dir):
    with open(job_dir / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("seconds", "images_per_second", "input_wait_share"):
            del row[name]
    return rows


def weights_sha256(job_dir):
    model = keras.models.load_model(
        job_dir / "medical_image_classifier.keras", compile=False
    )
    return features.weights_sha256(model)


def list_files(directory):
    return sorted(
        (path, path.stat().st_mtime_ns, path.stat().st_size)
        for path in directory.rglob("*")
        if path.is_file()
    )


def assert_one_sentence(error, start, message):
    (line,) = (n for n in error.splitlines() if n.startswith(start))
    assert re.search(message, line)
