"""A directory has one writer, whose name the second is told."""

import json
import os
import socket
import subprocess
import sys

import pytest

from trainer import config, pipeline, train
from trainer.storage import locks
from tuning import tuner

HOLD = """
import sys
from trainer.storage import locks
with locks.held(sys.argv[1], ""):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "new" / "run")


def test_second_is_told_who_writes_and_harms_nothing(directory):
    with locks.held(directory, "--job_dir=run"):
        name = f"process {os.getpid()} on {socket.gethostname()}, since"
        num_open = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            with (
                pytest.raises(
                    FileExistsError, match=f"^--job_dir=run .*{name}"
                ),
                locks.held(directory, "--job_dir=run"),
            ):
                pass
        assert len(os.listdir("/proc/self/fd")) == num_open
        with locks.held(os.path.join(directory, "fold"), "another"):
            assert os.listdir(directory + "/fold") == [locks.LOCK_FILE]
    # Nothing was written there.
    assert not os.path.exists(directory)


def test_error_frees_a_directory_and_keeps_what_is_in_it(directory):
    os.makedirs(directory)
    for name in ("", "kept"):
        with pytest.raises(OSError, match="full"), locks.held(directory, "run"):
            if name:
                open(os.path.join(directory, name), "w").close()
            raise OSError("full")
        assert os.listdir(directory) == [name] * bool(name)


def test_lock_of_a_killed_process_is_taken_over(directory):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    with (
        pytest.raises(FileExistsError, match=f"by process {process.pid} on"),
        locks.held(directory, "run"),
    ):
        pass
    process.kill()
    process.communicate()
    assert os.listdir(directory) == [locks.LOCK_FILE]
    with (
        locks.held(directory, "run"),
        open(os.path.join(directory, locks.LOCK_FILE)) as file,
    ):
        assert f"process {os.getpid()} on" in file.read()
    assert os.listdir(directory) == []


def test_lock_that_is_freed_meanwhile_is_not_kept_on_a_file_that_is_gone(
    directory, monkeypatch
):
    """The holder ends after the second has opened its file."""
    first = locks.held(directory, "first")
    first.__enter__()
    real, calls = os.open, []

    def open_and_free(*arguments):
        opened = real(*arguments)
        if not calls:
            calls.append(first.__exit__(None, None, None))
        return opened

    monkeypatch.setattr(os, "open", open_and_free)
    with (
        locks.held(directory, "second"),
        pytest.raises(FileExistsError, match="third"),
        locks.held(directory, "third"),
    ):
        pass


def test_link_in_the_place_of_the_lock_is_not_followed(directory, tmp_path):
    (tmp_path / "other").write_text("kept")
    os.makedirs(directory)
    os.symlink(tmp_path / "other", os.path.join(directory, locks.LOCK_FILE))
    with pytest.raises(OSError), locks.held(directory, "run"):
        pass
    assert (tmp_path / "other").read_text() == "kept"


@pytest.mark.parametrize(
    "start", [pipeline.run, lambda cfg: tuner.run(cfg, None)]
)
def test_job_directory_has_one_run(tiny_records, directory, start):
    cfg = config.TrainConfig(data_dir=str(tiny_records), job_dir=directory)
    with (
        locks.held(directory, "another"),
        pytest.raises(FileExistsError, match=f"--job_dir={directory} is being"),
    ):
        start(cfg)


def test_worker_of_the_same_run_is_let_in(tiny_records, directory, monkeypatch):
    cluster = {"worker": ["a:1", "b:1"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps({"cluster": cluster, "task": task})
    )
    monkeypatch.setattr(train, "set_up", lambda _: {}["it is in"])
    cfg = config.TrainConfig(data_dir=str(tiny_records), job_dir=directory)
    with (
        locks.held(directory, "the chief"),
        pytest.raises(KeyError, match="it is in"),
    ):
        pipeline.run(cfg)
