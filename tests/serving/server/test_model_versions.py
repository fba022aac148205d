"""Versions appear, fail, change and vanish on disk; no TensorFlow needed."""

import os

import pytest

from serving.server import model_versions


def write_version(base_path, version, content="good"):
    directory = base_path / str(version)
    directory.mkdir()
    (directory / "saved_model.pb").write_text(content)


def load(directory, version):
    with open(os.path.join(directory, "saved_model.pb")) as file:
        content = file.read()
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


def test_version_that_does_not_load_leaves_the_old_one(versions, tmp_path):
    write_version(tmp_path, 2, "half written")
    versions.refresh()
    assert versions.find(None) == "model 1"
    state = versions.states()[2]
    assert state == model_versions.VersionState(
        "END", "UNKNOWN", "KeyError: 'half written'"
    )


def test_failed_version_is_loaded_once_its_files_change(versions, tmp_path):
    write_version(tmp_path, 2, "half written")
    versions.refresh()
    (tmp_path / "2" / "saved_model.pb").write_text("good")
    versions.refresh()
    assert versions.find(None) == "model 2"
    assert states(versions) == {2: "AVAILABLE", 1: "END"}


def test_failed_version_is_not_loaded_again_without_a_change(tmp_path):
    write_version(tmp_path, 1, "bad")
    num_loads = 0

    def count(directory, version):
        nonlocal num_loads
        num_loads += 1
        return load(directory, version)

    versions = model_versions.ModelVersions(str(tmp_path), count)
    versions.refresh()
    versions.refresh()
    assert num_loads == 1


def test_removed_version_brings_the_one_before_back(versions, tmp_path):
    write_version(tmp_path, 2)
    versions.refresh()
    os.remove(tmp_path / "2" / "saved_model.pb")
    os.rmdir(tmp_path / "2")
    versions.refresh()
    assert versions.find(None) == "model 1"
    assert states(versions) == {2: "END", 1: "AVAILABLE"}


def test_empty_base_path_keeps_the_last_version(versions, tmp_path):
    os.remove(tmp_path / "1" / "saved_model.pb")
    os.rmdir(tmp_path / "1")
    versions.refresh()
    assert versions.find(None) == "model 1"


POLICIES = [
    (model_versions.VersionPolicy(), {4}),
    (model_versions.VersionPolicy(num_latest=2), {4, 3}),
    (model_versions.VersionPolicy(num_latest=None), {1, 3, 4}),
    (model_versions.VersionPolicy(specific=frozenset({1, 3, 9})), {1, 3}),
]


@pytest.mark.parametrize(("policy", "served"), POLICIES)
def test_policy_chooses_versions(tmp_path, policy, served):
    for version in (1, 3, 4):
        write_version(tmp_path, version)
    versions = model_versions.ModelVersions(str(tmp_path), load, policy)
    versions.refresh()
    assert {v for v in (1, 3, 4) if versions.find(v)} == served
    assert versions.find(None) == f"model {max(served)}"


def test_version_stays_until_what_the_policy_asks_for_is_there(
    versions, tmp_path
):
    versions.policy = model_versions.VersionPolicy(specific=frozenset({2}))
    versions.refresh()
    assert versions.find(None) == "model 1"
    write_version(tmp_path, 2, "bad")
    versions.refresh()
    assert versions.find(None) == "model 1"
    (tmp_path / "2" / "saved_model.pb").write_text("good")
    versions.refresh()
    assert versions.find(1) is None
    assert versions.find(None) == "model 2"


def test_unload_drops_every_version(versions):
    versions.unload()
    assert versions.find(None) is None
    assert states(versions) == {1: "END"}
