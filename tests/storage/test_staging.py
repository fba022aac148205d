"""What commands read from Cloud Storage is here, and comes back."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import types

import pytest
from absl import logging

from tests import cloud_storage
from trainer import config, config_flags, startup
from trainer.storage import paths, staging


@pytest.fixture
def url(bucket_name):
    return f"gs://{bucket_name}"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where local copies lie."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setattr(paths, "_copies", {})
    before = signal.getsignal(signal.SIGTERM)
    yield directory
    signal.signal(signal.SIGTERM, before)


def write_records(url):
    for name in ("dataset.json", "train-0.tfrecord", "features/a.npy"):
        paths.write_atomically(f"{url}/records/{name}", name)


def test_local_paths_are_given_back(tmp_path, scratch):
    with staging.Workspace() as place:
        assert place.stage("records", "data_dir") == "records"
        assert place.stage_file("imagenet", "weights") == "imagenet"
        assert place.mirror("run") == "run"
        assert place.mirror("") == ""
        assert place.output("out") == "out"
    assert not os.listdir(scratch)


def test_run_has_local_paths_and_says_those_that_were_given(
    cloud, url, scratch
):
    write_records(url)
    paths.write_atomically(f"{url}/b.weights.h5", "weights")
    given = config.TrainConfig(
        data_dir=f"{url}/records",
        job_dir=f"{url}/run",
        export_dir=f"{url}/run/model",
        weights=f"{url}/b.weights.h5",
    )
    cloud.inject(cloud_storage.CORRUPT, "alt=media", 2)
    with staging.Workspace() as place:
        cfg = config_flags.bring_here(given, place, is_chief=True)
        files = {"dataset.json", "train-0.tfrecord"}
        assert set(os.listdir(cfg.data_dir)) == files
        assert cfg.export_dir == os.path.join(cfg.job_dir, "model")
        assert os.path.basename(cfg.weights) == "b.weights.h5"
        assert cfg.features_dir == f"{url}/records/features"
        assert json.loads(cfg.to_json()) == json.loads(given.to_json()) | {
            "features_dir": cfg.features_dir
        }
        assert not cfg.differences(given)
        assert cfg.shared_json() == given.shared_json()
        paths.write_atomically(f"{cfg.export_dir}/1/saved_model.pb", "graph")
    assert paths.read_bytes(f"{url}/run/model/1/saved_model.pb") == b"graph"
    assert not os.listdir(scratch)
    assert not cloud.pending


def test_worker_reads_what_the_chief_left_and_writes_nothing(cloud, url):
    write_records(url)
    paths.write_atomically(f"{url}/run/config.json", "{}")
    before = cloud.read(url.removeprefix("gs://"))
    given = config.TrainConfig(
        data_dir=f"{url}/records", job_dir=f"{url}/run", export_dir=f"{url}/m"
    )
    with staging.Workspace() as place:
        cfg = config_flags.bring_here(given, place, is_chief=False)
        assert os.listdir(cfg.job_dir) == ["config.json"]
        paths.write_atomically(os.path.join(cfg.job_dir, "a"), "a")
    assert cloud.read(url.removeprefix("gs://")) == before


def test_what_a_command_writes_is_in_the_bucket_whole_at_its_end(cloud, url):
    paths.write_atomically(f"{url}/records/dataset.json", "told")
    with staging.Workspace() as place:
        local = place.output(f"{url}/records", "dataset.json", ["dataset.json"])
        assert paths.read_bytes(f"{local}/dataset.json") == b"told"
        paths.write_atomically(os.path.join(local, "new.tfrecord"), "new")
    assert paths.read_bytes(f"{url}/records/new.tfrecord") == b"new"


def test_streamed_records_stay_in_the_bucket(cloud, url):
    write_records(url)
    given = config.TrainConfig(
        data_dir=f"{url}/records", job_dir="run", stage_data=False
    )
    with staging.Workspace() as place:
        cfg = config_flags.bring_here(given, place, is_chief=True)
    assert cfg.data_dir == f"{url}/records"
    assert cfg.features_dir == f"{url}/records/features"


def test_what_does_not_arrive_is_kept_and_named(cloud, url, scratch):
    with pytest.raises(SystemExit) as ended, staging.Workspace() as place:
        local = place.mirror(f"{url}/run")
        paths.write_atomically(os.path.join(local, "a"), "a")
        cloud.inject(403, "POST /upload", 100)
    message = ended.value.code
    assert f"gcloud storage rsync --recursive {local} {url}/run" in message
    assert "roles/storage.objectUser" in message
    assert os.listdir(local) == ["a"]


def test_last_sentence_has_the_given_paths(url):
    with pytest.raises(SystemExit) as ended, staging.Workspace() as place:
        sys.exit(f"trainer.task: {place.mirror(f'{url}/run')}/config.json")
    assert ended.value.code == f"trainer.task: {url}/run/config.json"


def test_what_cannot_be_copied_is_told(cloud, url, monkeypatch):
    write_records(url)
    usage = types.SimpleNamespace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with staging.Workspace() as place:
        with pytest.raises(OSError, match=r"--data_dir=gs.*set TMPDIR to"):
            place.stage_records(f"{url}/records")
        with pytest.raises(FileNotFoundError, match=r"_dir=gs.*holds no files"):
            place.stage_records(f"{url}/absent")
        with pytest.raises(FileNotFoundError, match=r"--weights=gs.*not exist"):
            place.stage_file(f"{url}/absent.weights.h5", "weights")
    assert not [r for r in cloud.requests if "alt=media" in r]


def write_and_stop(url):
    """In a process of its own: ends with SIGTERM."""
    logging.use_absl_handler()
    with staging.Workspace() as place:
        local = place.mirror(url)
        paths.write_atomically(os.path.join(local, "trials.jsonl"), "1")
        logging.warning("in %s", local)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_process_told_to_stop_brings_everything(cloud, url, capfd):
    process = multiprocessing.get_context("spawn").Process(
        target=write_and_stop, args=[f"{url}/run"]
    )
    process.start()
    process.join()
    messages = capfd.readouterr().err
    assert process.exitcode == startup.PREEMPTED, messages
    assert f"in {url}/run\n" in messages
    assert "Stopped by SIGTERM; the same command continues." in messages
    assert paths.read_bytes(f"{url}/run/trials.jsonl") == b"1"
