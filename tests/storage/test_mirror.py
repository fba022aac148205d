"""The bucket holds what the directory held, whatever ends the process."""

import itertools
import os
import threading
import time

import pytest

from trainer.storage import buckets, mirror, paths

VERSION = ("export/1/assets/dataset.json", "export/1/saved_model.pb")


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture
def url(bucket_name):
    return f"gs://{bucket_name}/run"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Mirrors of a test: they look often, and no longer than the test."""
    monkeypatch.setattr(mirror, "PERIOD_S", 0.02)
    yield
    while _opened:
        opened = _opened.pop()
        opened._closing.set()
        if opened._thread:
            opened._thread.join()


_opened = []


def read_bucket(cloud, url):
    objects = cloud.read(buckets.split_url(url)[0])
    return {name.removeprefix("run/"): objects[name] for name in objects}


def changes(cloud, url):
    """Requests that change the bucket; mirrors of other tests may go on."""
    bucket, _ = buckets.split_url(url)
    return [r for r in cloud.requests if bucket in r and "GET" not in r[:3]]


def read_disk(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def write(directory, name, data):
    paths.write_atomically(str(directory / name), data)


def open_mirror(url, directory):
    directory.mkdir(exist_ok=True)
    opened = mirror.Mirror(url, str(directory))
    _opened.append(opened)
    opened.restore()
    opened.start()
    return opened


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_directory_is_followed_and_restored(cloud, url, tmp_path):
    first = open_mirror(url, tmp_path / "a")
    write(tmp_path / "a", "config.json", "{}")
    wait_for(lambda: "config.json" in read_bucket(cloud, url))
    write(tmp_path / "a", "config.json", '{"a": 1}')
    write(tmp_path / "a", "checkpoints/head/ckpt-1.index", "1")
    wait_for(lambda: len(read_bucket(cloud, url)) == 2)
    os.remove(tmp_path / "a/checkpoints/head/ckpt-1.index")
    write(tmp_path / "a", "checkpoints/head/ckpt-2.index", b"2" * (9 << 20))
    first.close()
    assert read_bucket(cloud, url) == read_disk(tmp_path / "a")
    second = open_mirror(url, tmp_path / "b")
    assert read_disk(tmp_path / "b") == read_disk(tmp_path / "a")
    cloud.heal()
    second.close()
    assert all("_write_check" in r for r in changes(cloud, url))


def test_what_is_unfinished_stays_here_and_what_a_cleaner_deletes_there(
    cloud, url, tmp_path
):
    opened = open_mirror(url, tmp_path / "a")
    write(tmp_path / "a", "history.csv", "epoch")
    wait_for(lambda: read_bucket(cloud, url))
    os.remove(tmp_path / "a/history.csv")
    for name in (
        "a.json.0123.tmp",
        "export/tmp.0123/saved_model.pb",
        "tmp.0123.keras",
        ".building/x",
        "checkpoints/head/ckpt-1_temp/part-0",
        "folds/1-of-2/records/dataset.json",
        "whole",
    ):
        write(tmp_path / "a", name, "")
    opened.close()
    found = {"history.csv": b"epoch", "whole": b""}
    assert read_bucket(cloud, url) == found


def test_last_file_stands_only_beside_everything_else(
    cloud, url, tmp_path, monkeypatch
):
    """Killed before each request of two starts, the second of other files."""

    def work(directory, text):
        paths.remove(str(directory / paths.SUCCESS_FILE))
        for name in (*VERSION, paths.SUCCESS_FILE):
            write(directory, name, text)

    # Its only passes are those of `close`.
    monkeypatch.setattr(mirror, "PERIOD_S", 1e6)
    budget = [0]

    def limited(real):
        def call(self, *arguments):
            if "_write_check" not in arguments:
                if not budget[0]:
                    raise Killed
                budget[0] -= 1
            return real(self, *arguments)

        return call

    for name in ("upload", "delete"):
        real = getattr(buckets.Folder, name)
        monkeypatch.setattr(buckets.Folder, name, limited(real))
    for text in ("first", "second"):
        for num_requests in itertools.count():
            budget[0] = num_requests
            directory = tmp_path / f"{text}{num_requests}"
            opened = open_mirror(url, directory)
            work(directory, text)
            try:
                opened.close()
                break
            except Killed:
                there = read_bucket(cloud, url)
            if paths.SUCCESS_FILE in there:
                assert len({there[name] for name in VERSION}) == 1
            if "export/1/saved_model.pb" in there:
                assert set(there) >= set(VERSION)
        assert num_requests >= 3
        assert read_bucket(cloud, url) == dict.fromkeys(
            (*VERSION, paths.SUCCESS_FILE), text.encode()
        )


def test_broken_version_is_dropped(cloud, url, tmp_path):
    whole = [name.replace("/1/", "/2/") for name in VERSION]
    for name in (VERSION[0], *whole):
        paths.write_atomically(f"{url}/{name}", "")
    opened = open_mirror(url, tmp_path / "a")
    assert os.listdir(tmp_path / "a/export") == ["2"]
    opened.close()
    assert {n.split("/")[1] for n in read_bucket(cloud, url)} == {"2"}


def test_record_never_names_what_is_not_there(cloud, url, tmp_path):
    """The bucket is read while a process writes files, then a log of them."""
    directory = tmp_path / "a"
    open_mirror(url, directory)
    ended = threading.Event()

    def work():
        with open(directory / "log", "w") as log:
            for i in itertools.count():
                if ended.is_set():
                    return
                write(directory, f"files/{i}", "x")
                log.write(f"files/{i}\n")
                log.flush()
                time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    folder, num_named = buckets.Folder(url), 0
    try:
        deadline = time.monotonic() + 30
        while num_named < 20 and time.monotonic() < deadline:
            if "log" not in folder.list():
                continue
            named = paths.read_bytes(f"{url}/log").decode().splitlines()
            assert set(named) <= set(folder.list())
            num_named = len(named)
    finally:
        ended.set()
        thread.join()
    assert num_named >= 20


def test_refused_upload_is_told_at_the_start_and_tried_again_later(
    cloud, url, tmp_path
):
    cloud.inject(403, "POST /upload")
    with pytest.raises(OSError, match=r"roles/storage\.objectUser"):
        open_mirror(url, tmp_path / "a")
    opened = open_mirror(url, tmp_path / "a")
    cloud.inject(403, "POST /upload", 2)
    write(tmp_path / "a", "a", "a")
    wait_for(lambda: read_bucket(cloud, url))
    opened.close()
    assert not cloud.pending


def test_second_writer_ends_with_a_sentence(cloud, url, tmp_path):
    first = open_mirror(url, tmp_path / "a")
    second = open_mirror(url, tmp_path / "b")
    write(tmp_path / "a", "config.json", "first")
    first.close()
    write(tmp_path / "b", "config.json", "second")
    with pytest.raises(FileExistsError, match=r"config\.json was written by"):
        second.close()
    assert read_bucket(cloud, url) == {"config.json": b"first"}
    assert read_disk(tmp_path / "b") == {"config.json": b"second"}


def test_directory_that_is_written_anew_keeps_what_is_not_its_own(
    cloud, url, tmp_path, monkeypatch
):
    monkeypatch.setattr(mirror, "PERIOD_S", 1e6)  # one look, at the end
    for name in ("dataset.json", "train-0.tfrecord", "features/a.npy"):
        paths.write_atomically(f"{url}/{name}", "old")
    directory = tmp_path / "a"
    directory.mkdir()
    opened = mirror.Mirror(url, str(directory), "dataset.json", False)
    opened.restore(["dataset.json"].__contains__)
    opened.start()
    assert read_disk(directory)["dataset.json"] == b"old"
    cloud.heal()
    os.remove(directory / "train-0.tfrecord")
    for name in ("train-1.tfrecord", "dataset.json"):
        write(directory, name, "new")
    opened.close()
    assert read_bucket(cloud, url) == {
        "dataset.json": b"new",
        "features/a.npy": b"old",
        "train-1.tfrecord": b"new",
    }
    first, *_, last = changes(cloud, url)
    assert first.startswith("DELETE") and "dataset.json" in first
    assert last.startswith("POST /upload")


def test_what_a_killed_process_tried_to_write_is_not_brought_here(
    cloud, url, tmp_path
):
    for name in ("config.json", mirror._WRITE_CHECK):
        paths.write_atomically(f"{url}/{name}", "{}")
    open_mirror(url, tmp_path / "here")
    assert read_disk(tmp_path / "here") == {"config.json": b"{}"}


def test_file_that_is_written_now_waits_and_one_that_goes_is_none(
    url, tmp_path, monkeypatch
):
    monkeypatch.setattr(mirror, "_SMALL", 4)
    monkeypatch.setattr(mirror, "_HELD", 6)
    opened = mirror.Mirror(url, str(tmp_path))

    def look(is_last=False):
        changes, num_waiting, names = opened._look(is_last)
        return {change.name for change in changes}, num_waiting, names

    write(tmp_path, "large", b"12345")
    assert look() == (set(), 1, {"large"})
    assert look(is_last=True) == ({"large"}, 0, {"large"})
    settled = time.time() - mirror._SETTLED_S - 1
    os.utime(tmp_path / "large", (settled, settled))
    assert look() == ({"large"}, 0, {"large"})
    # What is held in memory has an end: the rest is for the next look.
    for name in "abc":
        write(tmp_path, name, b"123")
    changes, num_waiting, names = look()
    assert len(changes) == 3 and num_waiting == 1
    assert names == {"large", *"abc"}

    def gone(path, mode):
        raise FileNotFoundError(path)

    monkeypatch.setattr(mirror, "open", gone, raising=False)
    assert look() == ({"large"}, 0, {"large"})
