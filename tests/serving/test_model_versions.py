"""Versions appear, fail, change and vanish on disk; no TensorFlow needed."""

import os

import pytest

from serving import model_versions, status_codes


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
    found = model_versions.ModelVersions("m", str(tmp_path), load)
    found.refresh()
    return found


def states(versions):
    return {v: s.state for v, s in versions.states("m", None).items()}


def test_newer_version_replaces_the_older(versions, tmp_path):
    write_version(tmp_path, 10)
    write_version(tmp_path, 9)
    versions.refresh()
    assert versions.get("m", None, None) == "model 10"
    assert states(versions) == {10: "AVAILABLE", 1: "END"}
    with pytest.raises(status_codes.StatusError, match=r"Specific\(m, 1\)"):
        versions.get("m", 1, None)


def test_version_that_does_not_load_leaves_the_old_one(versions, tmp_path):
    write_version(tmp_path, 2, "half written")
    versions.refresh()
    assert versions.get("m", None, None) == "model 1"
    state = versions.states("m", 2)[2]
    assert state == model_versions.VersionState(
        "END", "UNKNOWN", "KeyError: 'half written'"
    )


def test_failed_version_is_loaded_once_its_files_change(versions, tmp_path):
    write_version(tmp_path, 2, "half written")
    versions.refresh()
    (tmp_path / "2" / "saved_model.pb").write_text("good")
    versions.refresh()
    assert versions.get("m", None, None) == "model 2"
    assert states(versions) == {2: "AVAILABLE", 1: "END"}


def test_failed_version_is_not_loaded_again_without_a_change(tmp_path):
    write_version(tmp_path, 1, "bad")
    num_loads = 0

    def count(directory, version):
        nonlocal num_loads
        num_loads += 1
        return load(directory, version)

    versions = model_versions.ModelVersions("m", str(tmp_path), count)
    versions.refresh()
    versions.refresh()
    assert num_loads == 1


def test_removed_version_brings_the_one_before_back(versions, tmp_path):
    write_version(tmp_path, 2)
    versions.refresh()
    os.remove(tmp_path / "2" / "saved_model.pb")
    os.rmdir(tmp_path / "2")
    versions.refresh()
    assert versions.get("m", None, None) == "model 1"
    assert states(versions) == {2: "END", 1: "AVAILABLE"}


def test_empty_base_path_keeps_the_last_version(versions, tmp_path):
    os.remove(tmp_path / "1" / "saved_model.pb")
    os.rmdir(tmp_path / "1")
    versions.refresh()
    assert versions.get("m", None, None) == "model 1"


def test_names_that_are_no_numbers_are_ignored(versions, tmp_path):
    for name in ("tmp.123", "-3", "2a", str(2**63), "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert set(model_versions.find_versions(str(tmp_path))) == {1}


@pytest.mark.parametrize(
    ("name", "version", "label", "code", "message"),
    [
        ("x", None, None, "NOT_FOUND", "Latest(x)"),
        ("m", 7, None, "NOT_FOUND", "Specific(m, 7)"),
        ("m", None, "stable", "INVALID_ARGUMENT", "label: stable"),
        ("", None, None, "INVALID_ARGUMENT", "no name"),
    ],
)
def test_unknown_model_gets_tf_serving_s_code(
    versions, name, version, label, code, message
):
    with pytest.raises(status_codes.StatusError) as caught:
        versions.get(name, version, label)
    assert caught.value.code == code
    assert message in caught.value.message


def test_polling_picks_up_a_version(versions, tmp_path):
    loaded = model_versions.threading.Event()
    versions.start_polling(0.01)
    write_version(tmp_path, 2)
    for _ in range(500):
        if versions.get("m", None, None) == "model 2":
            break
        loaded.wait(0.01)
    versions.stop()
    assert versions.get("m", None, None) == "model 2"
