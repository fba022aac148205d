"""Whole runs on several replicas and in two processes equal one device's."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests.conftest import ROOT, write_records
from trainer.training import preemption

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Records, weights, and the history of a run on one device."""
    directory = tmp_path_factory.mktemp("multi_worker")
    (directory / "records").mkdir()
    # 22 images in batches of 8: the batches reach over the epochs' ends.
    write_records(
        directory / "records", {"train": 22, "validation": 9, "test": 7}
    )
    keras.utils.set_random_seed(0)
    backbone = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    # Features of fresh weights vanish, and labels would be decided by rounding:
    # one pass gives every batch norm the statistics of its inputs.
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    rng = np.random.default_rng(0)
    backbone(rng.uniform(0, 255, (32, 32, 32, 3)), training=True)
    backbone.save_weights(directory / "backbone.weights.h5")
    process = start(directory, "one_device")
    assert process.wait(timeout=300) == 0, process.stderr.read()
    return directory


# `trainer.task` on several logical CPUs: a machine with several GPUs.
ON_LOGICAL_CPUS = """
import sys
import tensorflow as tf
from absl import app
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * int(sys.argv.pop(1)),
)
from trainer import task
app.run(task.main)
"""


def start(
    workspace, job_dir, *arguments, task=None, cluster=None, num_devices=1
):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    if task:
        kind, index = task
        environment["TF_CONFIG"] = json.dumps(
            {"cluster": cluster, "task": {"type": kind, "index": index}}
        )
    command = ["-m", "trainer.task"]
    if num_devices > 1:
        command = ["-c", ON_LOGICAL_CPUS, str(num_devices)]
    return subprocess.Popen(
        [
            sys.executable,
            *command,
            f"--data_dir={workspace / 'records'}",
            f"--job_dir={workspace / job_dir}",
            f"--weights={workspace / 'backbone.weights.h5'}",
            "--image_size=32",
            "--global_batch_size=8",
            "--head_epochs=60",
            "--patience=60",
            "--feature_views=2",
            "--fine_tune_epochs=2",
            "--steps_per_execution=2",
            *arguments,
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return [f"127.0.0.1:{port}" for port in ports]


def start_cluster(workspace, job_dir, arguments=((), ())):
    """Starts a chief and a worker on free ports."""
    chief, worker = free_addresses(2)
    cluster = {"chief": [chief], "worker": [worker]}
    tasks = (("chief", 0), ("worker", 0))
    return [
        start(workspace, job_dir, *extra, task=task, cluster=cluster)
        for task, extra in zip(tasks, arguments, strict=True)
    ]


def wait(processes):
    """Waits for both and returns exit codes and standard errors."""
    errors = [process.communicate(timeout=400)[1] for process in processes]
    return [process.returncode for process in processes], errors


def read_history(workspace, job_dir):
    with open(workspace / job_dir / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_history(mine, theirs):
    assert [(r["phase"], r["epoch"], r["step"]) for r in mine] == [
        (r["phase"], r["epoch"], r["step"]) for r in theirs
    ]
    for row, other in zip(mine, theirs, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert float(row[name]) == pytest.approx(
                float(other[name]), rel=1e-5
            ), (row["phase"], row["epoch"], name)


def read_weights(workspace, job_dir):
    path = workspace / job_dir / "medical_image_classifier.keras"
    return keras.models.load_model(path, compile=False).get_weights()


def assert_same_weights(mine, theirs):
    for one, two in zip(mine, theirs, strict=True):
        scale = np.abs(two).max()
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * scale)


def test_four_replicas_train_as_one_device(workspace):
    process = start(
        workspace,
        "mirrored",
        "--strategy=mirrored",
        "--deterministic",
        num_devices=4,
    )
    codes, errors = wait([process])
    assert codes == [0], errors
    assert "with 4 replica(s)" in errors[0]
    assert_same_history(
        read_history(workspace, "mirrored"),
        read_history(workspace, "one_device"),
    )
    assert_same_weights(
        read_weights(workspace, "mirrored"),
        read_weights(workspace, "one_device"),
    )


def test_chief_and_worker_train_as_one_device_through_a_preemption(workspace):
    processes = start_cluster(workspace, "cluster")
    deadline = time.monotonic() + 300
    while not (workspace / "cluster/history.csv").exists():
        assert all(p.poll() is None for p in processes)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = wait(processes)
    assert codes == [preemption.EXIT_CODE] * 2, errors
    assert len(read_history(workspace, "cluster")) < 60
    codes, errors = wait(start_cluster(workspace, "cluster"))
    assert codes == [0, 0], errors
    assert_same_history(
        read_history(workspace, "cluster"),
        read_history(workspace, "one_device"),
    )
    assert_same_weights(
        read_weights(workspace, "cluster"),
        read_weights(workspace, "one_device"),
    )
    with open(workspace / "cluster/run.json") as file:
        starts = json.load(file)["starts"]
    assert [s["worker"] for s in starts] == ["chief-0", "chief-0"]
    # What the worker saved in order to take part is gone.
    assert sorted(os.listdir(workspace / "cluster/checkpoints")) == [
        "fine_tune",
        "head",
    ]
    assert os.listdir(workspace / "cluster/export") == ["1"]


def test_workers_with_other_flags_stop_before_the_first_step(workspace):
    processes = start_cluster(workspace, "differing", ((), ("--dropout=0.5",)))
    codes, errors = wait(processes)
    assert codes == [1, 1]
    for error in errors:
        last = error.strip().splitlines()[-1]
        assert "do not have the same flags" in last
    assert not (workspace / "differing/config.json").exists()


def test_evaluator_says_that_the_chief_evaluates_and_ends(workspace):
    cluster = {"chief": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"]}
    process = start(
        workspace, "evaluator", task=("evaluator", 0), cluster=cluster
    )
    codes, errors = wait([process])
    assert codes == [0]
    assert "the evaluator has nothing to do" in errors[0]
    assert not (workspace / "evaluator").exists()


def test_chief_whose_worker_is_absent_ends_with_a_sentence(workspace):
    chief, worker = free_addresses(2)
    process = start(
        workspace,
        "alone",
        "--cluster_timeout_s=3",
        task=("chief", 0),
        cluster={"chief": [chief], "worker": [worker]},
    )
    codes, errors = wait([process])
    assert codes[0] != 0
    last = errors[0].strip().splitlines()[-1]
    assert last.startswith("chief 0: not all of 127.0.0.1:")
    assert "could be reached within 3 s" in last
