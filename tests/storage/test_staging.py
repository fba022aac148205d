"""What commands read from Cloud Storage is here, and comes back."""

import collections
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time

import pytest
from absl import logging

from tests import cloud_storage
from trainer import config, config_flags, startup
from trainer.storage import buckets, paths, staging


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
    folder = buckets.Folder(f"{url}/records")
    names = ["dataset.json", "train-0.tfrecord", "features/a.npy"]
    for name in names:
        folder.upload(name.encode(), name)


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
    buckets.Folder(url).upload(b"weights", "b.weights.h5")
    given = config.TrainConfig(
        data_dir=f"{url}/records",
        job_dir=f"{url}/run",
        export_dir=f"{url}/run/model",
        weights=f"{url}/b.weights.h5",
    )
    cloud.inject(cloud_storage.CORRUPT, "alt=media", 2)
    with staging.Workspace() as place:
        cfg = config_flags.bring_here(given, place, is_chief=True)
        assert sorted(os.listdir(cfg.data_dir)) == [
            "dataset.json",
            "train-0.tfrecord",
        ]
        assert cfg.export_dir == os.path.join(cfg.job_dir, "model")
        assert os.path.basename(cfg.weights) == "b.weights.h5"
        assert cfg.features_dir == f"{url}/records/features"
        assert json.loads(cfg.to_json()) == json.loads(given.to_json()) | {
            "features_dir": cfg.features_dir
        }
        assert not cfg.differences(given)
        assert cfg.shared_json() == given.shared_json()
        paths.write_atomically(
            os.path.join(cfg.export_dir, "1/saved_model.pb"), "graph"
        )
    assert paths.read_bytes(f"{url}/run/model/1/saved_model.pb") == b"graph"
    assert not os.listdir(scratch)
    assert not cloud.pending


def test_worker_reads_what_the_chief_left_and_writes_nothing(cloud, url):
    write_records(url)
    buckets.Folder(f"{url}/run").upload(b"{}", "config.json")
    before = cloud.read(url.removeprefix("gs://"))
    given = config.TrainConfig(
        data_dir=f"{url}/records", job_dir=f"{url}/run", export_dir=f"{url}/m"
    )
    with staging.Workspace() as place:
        cfg = config_flags.bring_here(given, place, is_chief=False)
        assert os.listdir(cfg.job_dir) == ["config.json"]
        paths.write_atomically(os.path.join(cfg.job_dir, "a"), "a")
    assert cloud.read(url.removeprefix("gs://")) == before


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
    assert local in ended.value.code
    assert f"gcloud storage rsync --recursive {local} {url}/run" in (
        ended.value.code
    )
    assert "roles/storage.objectUser" in ended.value.code
    assert os.listdir(local) == ["a"]


def test_last_sentence_has_the_given_paths(url):
    with pytest.raises(SystemExit) as ended, staging.Workspace() as place:
        sys.exit(f"trainer.task: {place.mirror(f'{url}/run')}/config.json")
    assert ended.value.code == f"trainer.task: {url}/run/config.json"


def test_too_small_a_disk_is_told_before_the_copy(cloud, url, monkeypatch):
    write_records(url)
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10))
    with (
        staging.Workspace() as place,
        pytest.raises(OSError, match=r"--data_dir=gs.*set TMPDIR to"),
    ):
        place.stage_records(f"{url}/records")
    assert not [r for r in cloud.requests if "alt=media" in r]


def test_absent_folder_is_named(url):
    with (
        staging.Workspace() as place,
        pytest.raises(
            FileNotFoundError, match=r"--data_dir=gs.*holds no files"
        ),
    ):
        place.stage_records(f"{url}/absent")


def test_absent_file_is_named(url):
    with (
        staging.Workspace() as place,
        pytest.raises(FileNotFoundError, match=r"--weights=gs.*does not exist"),
    ):
        place.stage_file(f"{url}/absent.weights.h5", "weights")


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
