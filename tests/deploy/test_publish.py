"""Publishing on a disk and in a bucket: whole, once, and whatever happens."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
import requests
from google.auth.transport import requests as auth_requests

from deploy import model_base, publish
from tests.conftest import ROOT
from tests.deploy.conftest import read_bucket, read_disk, write_export
from trainer.storage import buckets, paths


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    """A base path, and a function that reads all files under it."""
    if request.param == "disk":
        directory = tmp_path / "models"
        directory.mkdir()
        return str(directory), lambda: read_disk(directory)
    bucket = request.getfixturevalue("bucket")

    def read():
        start = len("brain_mri/")
        return {name[start:]: b for name, b in read_bucket(bucket).items()}

    return f"gs://{bucket.name}/brain_mri", read


def files_of(found, number):
    """Files of a version, without the directory."""
    start = f"{number}/"
    return {
        name[len(start) :]: data
        for name, data in found.items()
        if name.startswith(start)
    }


def publish_one(path, version_dir, **options):
    return publish.publish(version_dir, model_base.open_base(path), **options)


def test_version_has_the_files_of_the_export(place, exports):
    path, read = place
    assert [publish_one(path, e) for e in exports] == [1, 2, 3]
    found = read()
    for number, version_dir in enumerate(exports, 1):
        assert files_of(found, number) == read_disk(pathlib.Path(version_dir))
    assert {n.split("/")[0] for n in found} == {"1", "2", "3"}


def test_same_export_is_published_once(place, exports, capsys):
    path, read = place
    for _ in range(2):
        assert publish_one(path, exports[0]) == 1
    publish_one(path, exports[1])
    before = read()
    assert publish_one(path, exports[0]) == 1
    assert read() == before
    assert "/1 holds " in capsys.readouterr().out


def test_rollback_takes_the_newest_version_and_gives_its_number_to_none(
    place, exports, capsys
):
    path, read = place
    for version_dir in exports[:2]:
        publish_one(path, version_dir)
    publish.roll_back(model_base.open_base(path))
    assert "/2 is withdrawn, servers go back to 1" in capsys.readouterr().out
    found = read()
    assert not files_of(found, 2)
    assert files_of(found, "withdrawn.2") == read_disk(pathlib.Path(exports[1]))
    with pytest.raises(ValueError, match="none to go back to"):
        publish.roll_back(model_base.open_base(path))
    assert publish_one(path, exports[1]) == 3
    assert files_of(read(), 3) == read_disk(pathlib.Path(exports[1]))


def test_newest_and_named_versions_are_kept(place, exports):
    path, read = place
    for version_dir in exports:
        publish_one(path, version_dir)
    publish.keep_newest(model_base.open_base(path), 1, {1})
    assert {n.split("/")[0] for n in read()} == {"1", "3"}


def test_unblessed_version_takes_force(place, tmp_path):
    path, read = place
    version_dir = write_export(tmp_path / "export/1", "model", blessed=False)
    with pytest.raises(ValueError, match=r"has not been tried .*--force"):
        publish_one(path, version_dir)
    assert not read()
    assert publish_one(path, version_dir, force=True) == 1


def test_damaged_export_is_refused(place, exports):
    path, read = place
    with open(os.path.join(exports[0], "fingerprint.pb"), "w") as file:
        file.write("other")
    with pytest.raises(ValueError, match=r"fingerprint.pb is missing or not"):
        publish_one(path, exports[0])
    assert not read()


def test_damaged_version_is_told(place, exports):
    path, _ = place
    publish_one(path, exports[0])
    paths.write_atomically(f"{path}/1/assets/dataset.json", "[]")
    with pytest.raises(ValueError, match=r"1/assets/dataset.json is"):
        publish_one(path, exports[0])


def assert_complete(found):
    """Every version that has a graph has all that its manifest lists."""
    for name in found:
        number, _, rest = name.partition("/")
        if number.isdigit() and rest == "saved_model.pb":
            files = files_of(found, number)
            for listed, facts in json.loads(files["manifest.json"])[
                "files"
            ].items():
                digest = hashlib.sha256(files[listed]).hexdigest()
                assert digest == facts["sha256"]


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
    place, exports, action
):
    path, read = place
    actions = {
        "publish": lambda base: publish.publish(exports[2], base),
        "rollback": publish.roll_back,
        "keep": lambda base: publish.keep_newest(base, 1, set()),
    }

    def act():
        actions[action](model_base.open_base(path))

    def set_up():
        """Two versions, and nothing else."""
        if paths.is_bucket(path):
            for name in read():
                buckets.Folder(path).delete(name)
        else:
            shutil.rmtree(path)
        for version_dir in exports[:2]:
            publish_one(path, version_dir)

    set_up()
    act()
    expected = read()
    for step in range(1, 100):
        set_up()
        with pytest.MonkeyPatch.context() as patch:
            count = kill_at(step, patch)
            with contextlib.suppress(Killed):
                act()
        assert_complete(read())
        if count[0] < step:
            break  # It was over before this step.
        done = read() == expected
        if not (action == "rollback" and done):
            act()
        assert read() == expected, f"step {step}"
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
def test_faults_of_the_bucket_neither_lose_nor_double(
    bucket, exports, fault, monkeypatch
):
    # Uploads are POST requests, listings GET.
    left = answer_badly(
        monkeypatch, {("POST", "upload"): fault, ("GET", "prefix"): fault}
    )
    path = f"gs://{bucket.name}/brain_mri"
    assert publish_one(path, exports[0]) == 1
    assert not left
    monkeypatch.undo()
    found = read_bucket(bucket)
    assert files_of(found, "brain_mri/1") == read_disk(pathlib.Path(exports[0]))
    assert {n.split("/")[1] for n in found} == {"1"}


def test_two_publishers_take_two_numbers(bucket, exports):
    path = f"gs://{bucket.name}/brain_mri"
    bases = [model_base.open_base(path) for _ in range(2)]
    real = bases[0]._children
    meet = threading.Barrier(2)

    def listed_at_once(calls=[]):  # noqa: B006
        found = real()
        if len(calls) < 6:
            calls.append(1)
            meet.wait(10)
        return found

    numbers = []
    for base in bases:
        base._children = listed_at_once
    threads = [
        threading.Thread(
            target=lambda b=base, e=version_dir: numbers.append(
                publish.publish(e, b)
            )
        )
        for base, version_dir in zip(bases, exports, strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2]
    assert_complete(
        {
            n.removeprefix("brain_mri/"): b
            for n, b in read_bucket(bucket).items()
        }
    )


def test_reader_never_sees_half_a_version(tmp_path, exports):
    path = tmp_path / "models"
    path.mkdir()
    seen, stop = set(), threading.Event()
    failures = []

    def watch():
        while not stop.is_set():
            try:
                versions = [n for n in os.listdir(path) if n.isdigit()]
                if not versions:
                    continue
                newest = path / max(versions, key=int)
                graph = (newest / "saved_model.pb").read_bytes()
                files = json.loads((newest / "manifest.json").read_text())
                for name, facts in files["files"].items():
                    digest = hashlib.sha256((newest / name).read_bytes())
                    assert digest.hexdigest() == facts["sha256"]
                seen.add(graph[:7])
            except Exception as error:
                # The newest version may be withdrawn while it is read.
                if newest.exists():
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
    assert seen == {b"model 1", b"model 2", b"model 3"}


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
