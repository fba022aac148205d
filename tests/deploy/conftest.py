"""Exports without TensorFlow, and buckets for them."""

import uuid

import pytest
from google.cloud import storage

from tests.commands import run, signed_in  # noqa: F401
from trainer.export import blessing, versions
from trainer.storage import paths


def _write_export(directory, content):
    """A version of a model as an export leaves it; returns its path."""
    files = {
        "saved_model.pb": content.encode() * 1000,
        "fingerprint.pb": b"fingerprint",
        "variables/variables.index": b"",
        "assets/dataset.json": b"{}",
    }
    for name, data in files.items():
        paths.write_atomically(str(directory / name), data)
    versions.write_manifest(str(directory), {})
    check = {"name": "load", "passed": True, "detail": "Loads."}
    blessing.write_blessing(str(directory), [check])
    return str(directory)


@pytest.fixture
def exports(tmp_path):
    """Three exports."""
    return [
        _write_export(tmp_path / "export" / str(i), f"model {i}")
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
