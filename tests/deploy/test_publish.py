"""Publishing on a disk and in a bucket: whole, once, and whatever happens."""

import collections
import contextlib
import functools
import os
import shutil
import threading
import time
from concurrent import futures

import pytest
from google.auth.transport import requests as auth_requests

from deploy import model_base, publish
from tests import cloud_storage, processes
from trainer.export import versions
from trainer.storage import buckets, paths


class Killed(BaseException):
    """What a process that is killed does not survive."""


@pytest.fixture
def url(bucket):
    return f"gs://{bucket.name}/classifier"


@pytest.fixture(params=["disk", "bucket"])
def path(request, tmp_path):
    """A base path."""
    if request.param == "bucket":
        return request.getfixturevalue("url")
    return str(tmp_path / "models")


def read(path):
    """Checksums of all files below a path, by name."""
    if paths.is_bucket(path):
        return {n: b.crc32c for n, b in buckets.Folder(path).list().items()}
    return {n: buckets.crc32c(f"{path}/{n}") for n in paths.list_files(path)}


def read_versions(path):
    """The same, by directory under a base path."""
    directories = collections.defaultdict(dict)
    for name, checksum in read(path).items():
        directory, _, file = name.partition("/")
        directories[directory][file] = checksum
    return directories


def publish_one(path, version_dir, **options):
    return publish.publish(version_dir, model_base.open_base(path), **options)


def test_version_has_the_files_of_the_export_and_is_published_once(
    path, exports, capsys
):
    published = [*exports[:1], *exports, exports[1]]
    assert [publish_one(path, e) for e in published] == [1, 1, 2, 3, 2]
    assert read_versions(path) == {
        str(number): read(export) for number, export in enumerate(exports, 1)
    }
    assert "/1 holds " in capsys.readouterr().out
    paths.write_atomically(f"{path}/1/assets/dataset.json", "[]")
    with pytest.raises(ValueError, match=r"1/assets/dataset.json is"):
        publish_one(path, exports[0])
    paths.write_atomically(f"{path}/2/assets/more", "")
    with pytest.raises(ValueError, match=r"2/assets/more is"):
        publish_one(path, exports[1])
    publish.keep_newest(model_base.open_base(path), 1, {1})
    assert set(read_versions(path)) == {"1", "3"}


def test_published_version_is_readable_to_all_whatever_the_umask(
    tmp_path, exports
):
    umask = os.umask(0o077)
    try:
        publish_one(str(tmp_path / "models"), exports[0])
    finally:
        os.umask(umask)
    for path in [tmp_path / "models", *(tmp_path / "models").rglob("*")]:
        mode = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & 0o777 == mode, path


def test_link_among_versions_is_removed_and_not_what_it_leads_to(
    tmp_path, exports
):
    elsewhere = shutil.copytree(exports[0], tmp_path / "elsewhere")
    (tmp_path / "models").mkdir()
    os.symlink(elsewhere, tmp_path / "models/1")
    base = model_base.open_base(str(tmp_path / "models"))
    publish.publish(exports[1], base)
    publish.keep_newest(base, 1, set())
    assert os.listdir(tmp_path / "models") == ["2"]
    assert (elsewhere / "saved_model.pb").exists()


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


def test_damaged_or_unblessed_export_is_refused(path, exports):
    os.remove(os.path.join(exports[0], "blessing.json"))
    with pytest.raises(ValueError, match=r"has not been tried .*--force"):
        publish_one(path, exports[0])
    for export, name in zip(
        exports[1:], ("fingerprint.pb", "not_in_the_manifest"), strict=True
    ):
        paths.write_atomically(os.path.join(export, name), "other")
        with pytest.raises(ValueError, match=f"{name} is missing or not"):
            publish_one(path, export)
    assert not read(path)
    assert publish_one(path, exports[0], force=True) == 1


@pytest.mark.parametrize("name", ["saved_model.pb", "blessing.json"])
def test_file_that_is_none_of_the_exports_own_is_not_read(path, exports, name):
    os.remove(os.path.join(exports[0], name))
    os.mkfifo(os.path.join(exports[0], name))
    with pytest.raises(ValueError, match=f"1/{name} must be a file of its own"):
        publish_one(path, exports[0], force=True)
    assert not read(path)


def assert_complete(path, exports):
    """Every version that has a graph is one of the exports."""
    whole = [read(export) for export in exports]
    for name, files in read_versions(path).items():
        if name.isdecimal() and "saved_model.pb" in files:
            assert files in whole


def kill_at(step, monkeypatch):
    """The process dies before its step of this number."""
    count = [0]

    def wrap(real):
        def call(*arguments, **options):
            # The client asks for facts about the bucket in the background.
            if "_fetch_background" not in threading.current_thread().name:
                count[0] += 1
                if count[0] == step:
                    raise Killed
            return real(*arguments, **options)

        return call

    for owner, name in (
        (shutil, "copyfile"),
        (shutil, "rmtree"),
        (os, "rename"),
        (auth_requests.AuthorizedSession, "request"),
    ):
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
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


@pytest.mark.parametrize(
    "fault", [503, 429, cloud_storage.RESET, cloud_storage.APPLIED]
)
def test_faults_of_the_bucket_neither_lose_nor_double(
    cloud, bucket_name, exports, fault
):
    for pattern in ("POST /upload", "GET .*prefix"):
        cloud.inject(fault, pattern)
    url = f"gs://{bucket_name}/classifier"
    assert publish_one(url, exports[0]) == 1
    assert not cloud.pending
    assert read_versions(url) == {"1": read(exports[0])}


def test_two_publishers_take_two_numbers(url, exports, monkeypatch):
    real = model_base.BucketBase._claim
    meet = threading.Barrier(2)

    def claim_at_once(base, number, version_dir):
        if number == 1:
            meet.wait(10)
        return real(base, number, version_dir)

    monkeypatch.setattr(model_base.BucketBase, "_claim", claim_at_once)
    with futures.ThreadPoolExecutor() as pool:
        numbers = pool.map(functools.partial(publish_one, url), exports[:2])
    assert sorted(numbers) == [1, 2]
    assert_complete(url, exports)
    assert versions.list_versions(url).keys() == {1, 2}


def test_two_publishers_on_a_disk_take_turns(tmp_path, exports, monkeypatch):
    real = model_base._next_number
    meet = threading.Barrier(2)

    def number_at_once(names):
        with contextlib.suppress(threading.BrokenBarrierError):
            meet.wait(0.5)  # In vain: the other has to wait outside.
        return real(names)

    monkeypatch.setattr(model_base, "_next_number", number_at_once)
    path = str(tmp_path / "models")
    with futures.ThreadPoolExecutor() as pool:
        numbers = pool.map(functools.partial(publish_one, path), exports[:2])
    assert sorted(numbers) == [1, 2]
    assert_complete(path, exports)


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


def run_command(*flags, **environment):
    """Exit code, standard output and standard error."""
    variables = os.environ | environment
    done = processes.run(
        "deploy.publish", *flags, env={k: v for k, v in variables.items() if v}
    )
    return done.returncode, done.stdout, done.stderr


def test_newest_export_in_a_bucket_is_published(bucket, url, exports):
    export_dir = f"gs://{bucket.name}/run/export"
    for number, version_dir in zip((9, 10), exports, strict=False):
        for name in paths.list_files(version_dir):
            data = paths.read_bytes(os.path.join(version_dir, name))
            paths.write_atomically(f"{export_dir}/{number}/{name}", data)
    code, out, err = run_command(
        f"--export_dir={export_dir}", f"--model_base_path={url}"
    )
    assert code == 0, err
    assert f"Published {export_dir}/10 as {url}/1 (6 files" in out
    assert read_versions(url) == {"1": read(exports[1])}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "Give either --export_dir, to publish, or --rollback."),
        (["--export_dir=EMPTY"], "holds no exported version"),
        (["--rollback"], "has 0 version.s.: there is none to go back to."),
        (["--export_dir=EXPORT", "--label=stable"], "--model_config_file"),
    ],
)
def test_mistake_is_one_sentence(run, tmp_path, exports, flags, sentence):
    flags = [
        flag.replace("EMPTY", str(tmp_path)).replace("EXPORT", exports[0])
        for flag in flags
    ]
    with pytest.raises(
        SystemExit, match=rf"^deploy\.publish: .*{sentence}.*\Z"
    ):
        run(publish, f"--model_base_path={tmp_path / 'models'}", *flags)


def test_absent_bucket_and_credentials_are_told(direct, exports, tmp_path):
    flags = [f"--export_dir={exports[0]}", "--model_base_path=gs://no-such/m"]
    sentence = "does not exist: create it, or correct gs://no-such/m.\n"
    told = f"deploy.publish: gs://no-such {sentence}"
    assert run_command(*flags) == (1, "", told)
    code, _, told = run_command(
        *flags,
        STORAGE_EMULATOR_HOST="",
        GOOGLE_APPLICATION_CREDENTIALS="",
        CLOUDSDK_CONFIG=str(tmp_path),
        NO_GCE_CHECK="true",
    )
    assert (code, told.count("\n")) == (1, 1)
    assert "gcloud auth application-default login" in told
