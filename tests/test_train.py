"""Training that is spread over replicas, killed or told to stop is the same."""

import csv
import json
import os
import random
import re
import signal
import socket
import time

import keras
import numpy as np
import pytest

from tests import processes, quick, runs
from tests.samples import write_backbone, write_records
from trainer import startup

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
    write_backbone(directory / "backbone.weights.h5", quick.FEW_KINDS)
    codes, errors = wait([start(directory, "one_device")])
    assert codes == [0], errors
    return directory


def start(
    workspace,
    job_dir,
    *arguments,
    module="tests.train_only",
    task=None,
    cluster=None,
    num_devices=1,
):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    if task:
        kind, index = task
        environment["TF_CONFIG"] = json.dumps(
            {"cluster": cluster, "task": {"type": kind, "index": index}}
        )
    return processes.Command(
        module,
        f"--data_dir={workspace / 'records'}",
        f"--job_dir={workspace / job_dir}",
        # Of its own, or all would use what one of them computed.
        f"--features_dir={workspace / job_dir}_features",
        f"--weights={workspace / 'backbone.weights.h5'}",
        "--image_size=32",
        "--global_batch_size=8",
        "--head_epochs=60",
        "--patience=60",
        "--feature_views=2",
        "--fine_tune_epochs=4",
        "--fine_tune_blocks=1",
        "--steps_per_execution=2",
        *arguments,
        env=environment,
        num_devices=num_devices,
    )


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return [f"127.0.0.1:{port}" for port in ports]


def start_cluster(workspace, job_dir, arguments=((), ()), has_chief=True):
    """Starts a chief and a worker, or two workers, on free ports."""
    first, second = free_addresses(2)
    if has_chief:
        cluster = {"chief": [first], "worker": [second]}
        tasks = (("chief", 0), ("worker", 0))
    else:
        cluster = {"worker": [first, second]}
        tasks = (("worker", 0), ("worker", 1))
    return [
        start(workspace, job_dir, *extra, task=task, cluster=cluster)
        for task, extra in zip(tasks, arguments, strict=True)
    ]


def wait(commands):
    """Waits for all and returns exit codes and standard errors."""
    try:
        errors = [command.communicate()[1] for command in commands]
    finally:
        for command in commands:
            command.kill()
    return [command.returncode for command in commands], errors


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
        # Of a tensor, not of each element: Adam divides gradients that are
        # next to nothing, and their rounding, by their own size.
        difference = np.linalg.norm(np.subtract(one, two, dtype=np.float64))
        assert difference <= 1e-5 * np.linalg.norm(two)


def assert_same_bits(workspace, mine, theirs):
    for one, two in zip(
        read_weights(workspace, mine),
        read_weights(workspace, theirs),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def wait_for(condition, commands):
    deadline = time.monotonic() + 300
    while not condition():
        assert all(p.poll() is None for p in commands), [
            p.read("stderr") for p in commands if p.poll() is not None
        ]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_epochs(workspace, job_dir, count, processes):
    """Waits for some rows of the history, which is replaced as a whole."""

    def has_rows():
        path = workspace / job_dir / "history.csv"
        return path.exists() and len(read_history(workspace, job_dir)) >= count

    wait_for(has_rows, processes)


def assert_trained_as_one_device(workspace, job_dir):
    assert_same_history(
        read_history(workspace, job_dir),
        read_history(workspace, "one_device"),
    )
    assert_same_weights(
        read_weights(workspace, job_dir),
        read_weights(workspace, "one_device"),
    )


def test_run_killed_in_both_phases_ends_with_the_weights_of_one_never_killed(
    workspace,
):
    job_dir = workspace / "killed"

    def views():
        # The description of a view is written when the view is.
        return {
            path: path.stat().st_mtime_ns
            for path in (workspace / "killed_features").glob("*.json")
        }

    def kill_when(condition):
        process = start(workspace, "killed")
        wait_for(condition, [process])
        process.kill()
        process.wait()
        assert not (job_dir / "medical_image_classifier.keras").exists()

    kill_when(views)
    kept = views()
    for name in ("head.npz", "fine_tune/checkpoint"):
        kill_when((job_dir / "checkpoints" / name).exists)
    codes, errors = wait([start(workspace, "killed")])
    assert codes == [0], errors
    # Two views to train on and one to validate on, each computed once.
    assert len(views()) == 3 and kept.items() <= views().items()
    assert_same_bits(workspace, "killed", "one_device")
    assert runs.history_without_timing(job_dir) == runs.history_without_timing(
        workspace / "one_device"
    )


def test_four_replicas_train_as_one_device(workspace):
    process = start(
        workspace,
        "four",
        "--strategy=mirrored",
        "--deterministic",
        num_devices=4,
    )
    codes, errors = wait([process])
    assert codes == [0], errors
    assert "with 4 replica(s)" in errors[0]
    assert_trained_as_one_device(workspace, "four")


@pytest.fixture(scope="module")
def preempted(workspace):
    """Two workers, one of which is told to stop."""

    def start_workers():
        return start_cluster(workspace, "preempted", has_chief=False)

    processes = start_workers()
    wait_for_epochs(workspace, "preempted", 61, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = wait(processes)
    assert codes == [startup.PREEMPTED] * 2, errors
    assert len(read_history(workspace, "preempted")) < 64
    codes, errors = wait(start_workers())
    assert codes == [0, 0], errors
    return "preempted"


def test_preempted_workers_train_as_one_device(workspace, preempted):
    assert_trained_as_one_device(workspace, preempted)
    with open(workspace / preempted / "run.json") as file:
        starts = json.load(file)["starts"]
    assert [s["worker"] for s in starts] == ["worker-0"] * 2
    # What the other worker saved in order to take part is gone.
    assert sorted(os.listdir(workspace / preempted / "checkpoints")) == [
        "fine_tune",
        "head.npz",
    ]


def assert_survivor_ends(survivor, lost):
    """With a sentence, in a minute."""
    _, error = survivor.communicate(timeout=60)
    assert survivor.returncode == 1, error
    last = error.strip().splitlines()[-1]
    assert re.fullmatch(
        rf"trainer\.task: ({lost}|another worker) stopped or cannot be "
        "reached: start all workers again; the same command continues.",
        last,
    )


def test_crashed_chief_and_worker_end_with_the_same_bits(workspace, preempted):
    """Hung, torn and killed, against workers that were not."""
    job_dir = "crashed"
    features = workspace / f"{job_dir}_features"
    chief, worker = start_cluster(workspace, job_dir)
    wait_for(lambda: list(features.glob("*.json")), [chief, worker])
    worker.send_signal(signal.SIGSTOP)
    assert_survivor_ends(chief, "worker 0")
    worker.kill()
    worker.wait()
    first_view, *_ = features.glob("*.json")
    written = first_view.stat().st_mtime_ns
    chief, worker = start_cluster(workspace, job_dir)
    wait_for_epochs(
        workspace, job_dir, random.randrange(62, 64), [chief, worker]
    )
    chief.kill()
    # Past the last step the worker does not need the chief any more.
    _, error = worker.communicate(timeout=60)
    assert worker.returncode in (0, 1), error
    chief.wait()
    assert first_view.stat().st_mtime_ns == written
    newest = max(
        (workspace / job_dir / "checkpoints/fine_tune").glob("ckpt-*.data-*"),
        key=lambda path: int(re.findall(r"ckpt-(\d+)", path.name)[0]),
    )
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    codes, errors = wait(start_cluster(workspace, job_dir))
    assert codes == [0, 0], errors
    history = read_history(workspace, job_dir)
    assert [(r["phase"], int(r["epoch"])) for r in history] == [
        *(("head", epoch) for epoch in range(1, 61)),
        *(("fine_tune", epoch) for epoch in (1, 2, 3, 4)),
    ]
    assert_same_bits(workspace, job_dir, preempted)


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
        workspace,
        "evaluator",
        module="trainer.task",
        task=("evaluator", 0),
        cluster=cluster,
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
