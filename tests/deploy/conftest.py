"""Exports without TensorFlow, and base paths on a disk and in a bucket."""

import hashlib
import json
import uuid

import pytest
from google.cloud import storage

from trainer.export import blessing


def write_export(directory, content, blessed=True):
    """A version of a model as an export leaves it; returns its path."""
    files = {
        "saved_model.pb": content.encode() * 1000,
        "fingerprint.pb": b"fingerprint",
        "variables/variables.index": b"",
        "assets/dataset.json": b"{}",
        "assets.extra/tf_serving_warmup_requests": content.encode(),
    }
    listed = {}
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        listed[name] = {"sha256": hashlib.sha256(data).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps({"files": listed}))
    if blessed:
        check = {"name": "load", "passed": True, "detail": "Loads."}
        blessing.write_blessing(str(directory), [check])
    return str(directory)


@pytest.fixture
def exports(tmp_path):
    """Three exports."""
    return [
        write_export(tmp_path / "export" / str(i), f"model {i}")
        for i in range(1, 4)
    ]


@pytest.fixture
def direct(cloud_server, monkeypatch):
    """Routes google-cloud-storage past the proxy: hundreds of requests."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud_server.direct_url)


@pytest.fixture
def bucket(direct):
    """A new bucket."""
    return storage.Client().create_bucket(f"models-{uuid.uuid4().hex}")


def read_bucket(bucket):
    """Name -> content of all objects."""
    return {b.name: b.download_as_bytes() for b in bucket.list_blobs()}


def read_disk(directory):
    """Relative path -> content of all files."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
