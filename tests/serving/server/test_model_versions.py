"""Versions appear, fail, change and vanish on disk; no TensorFlow needed."""

import pathlib
import shutil

import pytest

from serving.server import model_versions


def write_version(base_path, version, content="good"):
    directory = base_path / str(version)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "saved_model.pb").write_text(content)


def load(directory, version):
    content = pathlib.Path(directory, "saved_model.pb").read_text()
    if content != "good":
        raise KeyError(content)
    return f"model {version}"


@pytest.fixture
def versions(tmp_path):
    write_version(tmp_path, 1)
    versions = model_versions.ModelVersions(str(tmp_path), load)
    versions.refresh()
    return versions


def states(versions):
    return {v: s.state for v, s in versions.states().items()}


def test_newer_version_replaces_the_older(versions, tmp_path):
    write_version(tmp_path, 10)
    write_version(tmp_path, 9)
    versions.refresh()
    assert versions.find(None) == "model 10"
    assert states(versions) == {10: "AVAILABLE", 1: "END"}
    assert versions.find(1) is None


def test_failed_version_leaves_the_old_one_until_it_changes(tmp_path):
    loads = []

    def count(directory, version):
        loads.append(version)
        return load(directory, version)

    write_version(tmp_path, 1)
    versions = model_versions.ModelVersions(str(tmp_path), count)
    versions.refresh()
    write_version(tmp_path, 2, "half written")
    versions.refresh()
    versions.refresh()
    assert loads == [1, 2]
    assert versions.find(None) == "model 1"
    assert versions.states()[2] == model_versions.VersionState(
        "END", "UNKNOWN", "KeyError: 'half written'"
    )
    write_version(tmp_path, 2)
    versions.refresh()
    assert versions.find(None) == "model 2"
    assert states(versions) == {2: "AVAILABLE", 1: "END"}


def test_removed_version_brings_the_one_before_back(versions, tmp_path):
    write_version(tmp_path, 2)
    versions.refresh()
    shutil.rmtree(tmp_path / "2")
    versions.refresh()
    assert versions.find(None) == "model 1"
    assert states(versions) == {2: "END", 1: "AVAILABLE"}


def test_empty_base_path_keeps_the_last_version(versions, tmp_path):
    shutil.rmtree(tmp_path / "1")
    versions.refresh()
    assert versions.find(None) == "model 1"


def test_version_stays_until_what_the_policy_asks_for_is_there(
    versions, tmp_path
):
    versions.policy = model_versions.VersionPolicy(specific=frozenset({2}))
    versions.refresh()
    assert versions.find(None) == "model 1"
    write_version(tmp_path, 2, "bad")
    versions.refresh()
    assert versions.find(None) == "model 1"
    write_version(tmp_path, 2)
    versions.refresh()
    assert versions.find(1) is None
    assert versions.find(None) == "model 2"


def test_unload_drops_every_version(versions):
    versions.unload()
    assert versions.find(None) is None
    assert states(versions) == {1: "END"}
