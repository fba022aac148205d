"""Publishing on a disk and in a bucket: whole, once, and whatever happens."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
import requests
from google.auth.transport import requests as auth_requests

from deploy import model_base, publish
from tests.samples import ROOT
from trainer.export import versions
from trainer.storage import buckets, paths


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture
def url(bucket):
    return f"gs://{bucket.name}/brain_mri"


@pytest.fixture(params=["disk", "bucket"])
def path(request, tmp_path):
    """A base path."""
    if request.param == "bucket":
        return request.getfixturevalue("url")
    return str(tmp_path / "models")


def read(path):
    """Checksums of all files below a path, by name."""
    if paths.is_bucket(path):
        objects = buckets.Folder(path).list()
        return {name: blob.crc32c for name, blob in objects.items()}
    return {
        name: buckets.crc32c(os.path.join(path, name))
        for name in paths.list_files(path)
    }


def read_versions(path):
    """The same, by directory under a base path."""
    directories = {}
    for name, checksum in read(path).items():
        directory, _, file = name.partition("/")
        directories.setdefault(directory, {})[file] = checksum
    return directories


def publish_one(path, version_dir, **options):
    return publish.publish(version_dir, model_base.open_base(path), **options)


def test_version_has_the_files_of_the_export(path, exports):
    assert [publish_one(path, e) for e in exports] == [1, 2, 3]
    assert read_versions(path) == {
        str(number): read(export) for number, export in enumerate(exports, 1)
    }


def test_same_export_is_published_once(path, exports, capsys):
    for _ in range(2):
        assert publish_one(path, exports[0]) == 1
    publish_one(path, exports[1])
    before = read(path)
    assert publish_one(path, exports[0]) == 1
    assert read(path) == before
    assert "/1 holds " in capsys.readouterr().out


def test_tenth_version_is_newer_than_the_ninth(path, exports):
    for name in ("9/saved_model.pb", "10/saved_model.pb"):
        paths.write_atomically(paths.join(path, name), "graph")
    assert publish_one(path, exports[0]) == 11
    publish.keep_newest(model_base.open_base(path), 2, set())
    assert set(read_versions(path)) == {"10", "11"}


def test_rollback_takes_the_newest_version_and_gives_its_number_to_none(
    path, exports, capsys
):
    base = model_base.open_base(path)
    for version_dir in exports[:2]:
        publish_one(path, version_dir)
    publish.roll_back(base)
    assert "/2 is withdrawn, servers go back to 1" in capsys.readouterr().out
    first, second = map(read, exports[:2])
    assert read_versions(path) == {"1": first, "withdrawn.2": second}
    with pytest.raises(ValueError, match=r"has 1 version.*none to go back to"):
        publish.roll_back(base)
    assert publish_one(path, exports[1]) == 3
    assert read_versions(path)["3"] == second


def test_newest_and_named_versions_are_kept(path, exports):
    for version_dir in exports:
        publish_one(path, version_dir)
    publish.keep_newest(model_base.open_base(path), 1, {1})
    assert set(read_versions(path)) == {"1", "3"}


def test_unblessed_version_takes_force(path, exports):
    os.remove(os.path.join(exports[0], "blessing.json"))
    with pytest.raises(ValueError, match=r"has not been tried .*--force"):
        publish_one(path, exports[0])
    assert not read(path)
    assert publish_one(path, exports[0], force=True) == 1


@pytest.mark.parametrize("name", ["fingerprint.pb", "not_in_the_manifest"])
def test_damaged_export_is_refused(path, exports, name):
    paths.write_atomically(os.path.join(exports[0], name), "other")
    with pytest.raises(ValueError, match=f"{name} is missing or not"):
        publish_one(path, exports[0])
    assert not read(path)


def test_damaged_version_is_told(path, exports):
    publish_one(path, exports[0])
    paths.write_atomically(f"{path}/1/assets/dataset.json", "[]")
    with pytest.raises(ValueError, match=r"1/assets/dataset.json is"):
        publish_one(path, exports[0])


def assert_complete(path, exports):
    """Every version that has a graph is one of the exports."""
    whole = [read(export) for export in exports]
    for name, files in read_versions(path).items():
        if name.isdecimal() and "saved_model.pb" in files:
            assert files in whole


def kill_at(step, monkeypatch):
    """The process dies before its step of this number."""
    count = [0]

    def wrap(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            # The client asks for facts about the bucket in the background.
            if "_fetch_background" in threading.current_thread().name:
                return real(*arguments, **options)
            count[0] += 1
            if count[0] == step:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for name in ("copyfile", "rmtree"):
        wrap(shutil, name)
    wrap(os, "rename")
    wrap(auth_requests.AuthorizedSession, "request")
    return count


@pytest.mark.parametrize("action", ["publish", "rollback", "keep"])
def test_killed_at_any_step_and_run_again_gives_the_same(
    path, exports, tmp_path, action
):
    actions = {
        "publish": lambda base: publish.publish(exports[2], base),
        "rollback": publish.roll_back,
        "keep": lambda base: publish.keep_newest(base, 1, set()),
    }

    def act():
        actions[action](model_base.open_base(path))

    before = str(tmp_path / "before")
    for version_dir in exports[:2]:
        publish_one(before, version_dir)

    def set_up():
        """Two versions, and nothing else."""
        if not paths.is_bucket(path):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(before, path)
            return
        folder, old, new = buckets.Folder(path), read(path), read(before)
        for name in old.keys() - new.keys():
            folder.delete(name)
        for name in new.keys() - old.keys():
            folder.upload(os.path.join(before, name), name)
        assert read(path) == new

    set_up()
    act()
    expected = read(path)
    for step in range(1, 100):
        set_up()
        with pytest.MonkeyPatch.context() as patch:
            count = kill_at(step, patch)
            with contextlib.suppress(Killed):
                act()
        assert_complete(path, exports)
        if count[0] < step:
            break  # It was over before this step.
        if not (action == "rollback" and read(path) == expected):
            act()
        assert read(path) == expected, f"step {step}"
    assert step > 1


def answer_badly(monkeypatch, faults):
    """The first requests of some kinds are answered as `faults` says."""
    real = auth_requests.AuthorizedSession.request
    left = dict(faults)

    def request(self, method, url, *arguments, **options):
        for (verb, part), fault in list(left.items()):
            if verb == method and part in url:
                del left[verb, part]
                if fault == "reset":
                    raise requests.ConnectionError("Connection reset by peer")
                if fault == "applied":
                    real(self, method, url, *arguments, **options)
                    fault = 503
                response = requests.Response()
                response.status_code = fault
                response._content = b"{}"
                response.request = requests.Request(method, url).prepare()
                return response
        return real(self, method, url, *arguments, **options)

    monkeypatch.setattr(auth_requests.AuthorizedSession, "request", request)
    return left


@pytest.mark.parametrize("fault", [503, 429, "reset", "applied"])
def test_faults_of_the_bucket_neither_lose_nor_double(url, exports, fault):
    with pytest.MonkeyPatch.context() as patch:
        # Uploads are POST requests, listings GET.
        left = answer_badly(
            patch, {("POST", "upload"): fault, ("GET", "prefix"): fault}
        )
        assert publish_one(url, exports[0]) == 1
        assert not left
    assert read_versions(url) == {"1": read(exports[0])}


def test_two_publishers_take_two_numbers(url, exports, monkeypatch):
    real = model_base.BucketBase._claim
    meet = threading.Barrier(2)
    numbers = []

    def claim_at_once(base, number, version_dir):
        if number == 1:
            meet.wait(10)
        return real(base, number, version_dir)

    monkeypatch.setattr(model_base.BucketBase, "_claim", claim_at_once)
    threads = [
        threading.Thread(target=lambda e=e: numbers.append(publish_one(url, e)))
        for e in exports[:2]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2]
    assert_complete(url, exports)
    assert versions.list_versions(url).keys() == {1, 2}


def test_reader_never_sees_half_a_version(tmp_path, exports):
    path = tmp_path / "models"
    path.mkdir()
    whole = [read(export) for export in exports]
    seen, failures, stop = [], [], threading.Event()

    def watch():
        while not stop.is_set():
            newest = max(versions.list_versions(str(path)).items(), default=0)
            if not newest:
                continue
            try:
                seen.append(whole.index(read(newest[1])))
            except (OSError, ValueError) as error:
                # The newest version may be withdrawn while it is read.
                if os.path.exists(newest[1]):
                    failures.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    base = model_base.open_base(str(path))
    for _ in range(5):
        for version_dir in exports:
            publish.publish(version_dir, base)
            time.sleep(0.02)
        publish.roll_back(base)
        publish.keep_newest(base, 1, set())
    stop.set()
    thread.join()
    assert not failures
    assert set(seen) == {0, 1, 2}


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "deploy.publish", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "Give either --export_dir, to publish, or --rollback."),
        (["--export_dir=EMPTY"], "holds no exported version"),
        (["--rollback"], "has 0 version(s): there is none to go back to."),
        (["--export_dir=EXPORT", "--label=stable"], "--model_config_file"),
    ],
)
def test_mistake_is_one_sentence(tmp_path, exports, flags, sentence):
    flags = [
        flag.replace("EMPTY", str(tmp_path / "empty")).replace(
            "EXPORT", exports[0]
        )
        for flag in flags
    ]
    done = run(f"--model_base_path={tmp_path / 'models'}", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("deploy.publish: ")
    assert sentence in done.stderr and done.stderr.count("\n") == 1


def test_bucket_that_does_not_exist_is_one_sentence(direct, exports):
    done = run(
        f"--export_dir={exports[0]}", "--model_base_path=gs://no-such/brain_mri"
    )
    assert done.returncode == 1
    assert done.stderr == (
        "deploy.publish: gs://no-such does not exist: create it, or correct "
        "gs://no-such/brain_mri.\n"
    )


def test_missing_credentials_are_one_sentence(exports, tmp_path):
    environment = {
        k: v for k, v in os.environ.items() if k != "STORAGE_EMULATOR_HOST"
    }
    done = run(
        f"--export_dir={exports[0]}",
        "--model_base_path=gs://some-bucket/brain_mri",
        env=environment
        | {
            "GOOGLE_APPLICATION_CREDENTIALS": "",
            "CLOUDSDK_CONFIG": str(tmp_path),
            "NO_GCE_CHECK": "true",
        },
    )
    assert done.returncode == 1
    assert "gcloud auth application-default login" in done.stderr
    assert done.stderr.count("\n") == 1
