"""Objects are whole and written once, whatever the network does."""

import io
import json
import types

import google.auth
import pytest
import requests
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import storage

from tests import cloud_storage
from trainer.storage import buckets, paths

CONTENT = bytes(range(256)) * 40


def test_object_is_written_and_read(bucket_name):
    url = f"gs://{bucket_name}/a/b.json"
    assert not paths.exists(url)
    with pytest.raises(FileNotFoundError, match=f"{url} does not exist"):
        paths.read_bytes(url)
    paths.write_atomically(url, "text")
    assert paths.exists(url)
    assert paths.read_bytes(url) == b"text"
    paths.write_atomically(url, CONTENT)
    assert paths.read_bytes(url) == CONTENT


@pytest.mark.parametrize("fault", [503, 429, cloud_storage.RESET])
def test_passing_refusal_costs_nothing(cloud, bucket_name, tmp_path, fault):
    folder = buckets.Folder(f"gs://{bucket_name}/a")
    for pattern in ("POST /upload", "GET .*/o", "alt=media", "DELETE"):
        cloud.inject(fault, pattern)
    generation = folder.upload(CONTENT, "b")
    folder.download(folder.list(), str(tmp_path))
    assert (tmp_path / "b").read_bytes() == CONTENT
    folder.delete("b", generation)
    assert not folder.list() and not cloud.pending


def test_altered_download_is_repeated(cloud, bucket_name, tmp_path):
    folder = buckets.Folder(f"gs://{bucket_name}/a")
    folder.upload(CONTENT, "b")
    cloud.inject(cloud_storage.CORRUPT, "alt=media", 3)
    folder.download(folder.list(), str(tmp_path))
    assert (tmp_path / "b").read_bytes() == CONTENT
    cloud.inject(cloud_storage.CORRUPT, "alt=media", 2)
    assert paths.read_bytes(f"gs://{bucket_name}/a/b") == CONTENT
    assert not cloud.pending
    cloud.inject(cloud_storage.CORRUPT, "alt=media", 100)
    with pytest.raises(OSError, match=r"DataCorruption.*run the same command"):
        folder.download(folder.list(), str(tmp_path))


@pytest.mark.parametrize("as_file", [True, False])
def test_upload_whose_answer_is_lost_is_one_object(
    cloud, bucket_name, tmp_path, as_file
):
    folder = buckets.Folder(f"gs://{bucket_name}")
    (tmp_path / "b").write_bytes(CONTENT)
    content = str(tmp_path / "b") if as_file else CONTENT
    cloud.inject(cloud_storage.APPLIED, "POST /upload")
    generation = folder.upload(content, "b", 0)
    assert not cloud.pending
    assert folder.list()["b"].generation == generation
    assert cloud.read(bucket_name) == {"b": CONTENT}


def test_object_of_another_process_is_not_overwritten(cloud, bucket_name):
    folder = buckets.Folder(f"gs://{bucket_name}/run")
    first = folder.upload(b"first", "b", 0)
    folder.upload(b"of another", "b")
    for generation in (0, first):
        with pytest.raises(FileExistsError, match="run/b was written by anoth"):
            folder.upload(b"second", "b", generation)
    assert cloud.read(bucket_name) == {"run/b": b"of another"}


def test_list_has_files_alone(cloud, bucket_name, tmp_path):
    folder = buckets.Folder(f"gs://{bucket_name}/a")
    for name in ("b", "c/d", "folder/"):
        folder.upload(b"", name)
    buckets.Folder(f"gs://{bucket_name}").upload(b"", "ab")
    assert sorted(paths.list_files(folder.url)) == ["b", "c/d"]
    folder.download(folder.list(), str(tmp_path))
    assert sorted(paths.list_files(str(tmp_path))) == ["b", "c/d"]


def test_name_that_would_leave_the_directory_is_refused(cloud, monkeypatch):
    """The server here resolves such names; Google's keeps them."""
    folder = buckets.Folder("gs://b/a")
    blobs = [folder._blob(name) for name in ("b", "c/../../../d")]
    monkeypatch.setattr(storage.Bucket, "list_blobs", lambda *_, **__: blobs)
    with pytest.raises(OSError, match=r"gs://b/a/c/\.\./.* rename the object"):
        folder.list()


def test_renamed_object_has_the_content(cloud, bucket_name):
    folder = buckets.Folder(f"gs://{bucket_name}/a")
    folder.upload(CONTENT, "b")
    folder.rename("b", "c/d")
    assert cloud.read(bucket_name) == {"a/c/d": CONTENT}


def answered(status, message):
    """What google-cloud-storage makes of an answer of Google's."""
    response = requests.Response()
    response.status_code = status
    response.request = requests.Request("PUT", "https://g/o").prepare()
    body = {"error": {"code": status, "message": message}}
    response.raw = io.BytesIO(json.dumps(body).encode())
    return exceptions.from_http_response(response)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (auth_exceptions.DefaultCredentialsError(), "no credentials.*gcloud a"),
        (exceptions.NotFound(""), r"gs://b does not exist: create it"),
        (exceptions.Forbidden(""), "takes roles/storage.objectUser"),
        (
            answered(403, "Object 'o' is subject to bucket's retention policy"),
            "denied: Object 'o' is subject to bucket's retention policy. Unl",
        ),
        (
            answered(400, "Bucket is a requester pays bucket\nbut no more."),
            r"refused \(400\): Bucket is a requester pays bucket. The same "
            "command would be refused again",
        ),
        (answered(408, "late"), "late.*run the same command again"),
        (
            answered(429, "The rate is too high"),
            "rate is too high.*again later",
        ),
        (exceptions.TooManyRequests(""), "quota or rate limit.*again later"),
        (exceptions.ServiceUnavailable("x"), "could not be reached.*again"),
    ],
)
def test_error_says_what_to_do(monkeypatch, error, sentence):
    def fail(*arguments, **options):
        raise error

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", fail)
    with pytest.raises(OSError, match=sentence):
        buckets.Folder("gs://b/c")
    with pytest.raises(OSError, match=sentence):
        paths.read_bytes("gs://b/c")


@pytest.mark.parametrize("url", ["gs://", "gs:///a", "s3://bucket/a", "gs://A"])
def test_other_url_is_refused(url):
    with pytest.raises(ValueError, match=f"must be gs://BUCKET/PATH.*{url}"):
        paths.read_bytes(url)


def test_absent_bucket_is_named(cloud):
    with pytest.raises(OSError, match="gs://lightbox-absent does not exist"):
        buckets.Folder("gs://lightbox-absent/a").list()
    with pytest.raises(OSError, match="gs://lightbox-absent does not exist"):
        buckets.Folder("gs://lightbox-absent/a").upload(b"", "b")


def test_mark_of_a_folder_is_no_file(monkeypatch, bucket_name):
    folder = buckets.Folder(f"gs://{bucket_name}/run")
    # The server of the tests keeps no such marks.
    objects = [
        types.SimpleNamespace(name=name)
        for name in ("run/", "run/folder/", "run/folder/a", "run/b")
    ]
    bucket = types.SimpleNamespace(list_blobs=lambda prefix: objects)
    monkeypatch.setattr(folder, "_bucket", bucket)
    assert folder.list() == {"folder/a": objects[2], "b": objects[3]}
