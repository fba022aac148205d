"""Which directories are versions, and whether they are as exported."""

import hashlib
import json
import os

import pytest

from trainer.export import blessing, signature, versions
from trainer.storage import paths


@pytest.fixture(params=["disk", "bucket"])
def base_path(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path)
    return f"gs://{request.getfixturevalue('bucket_name')}/models/m"


def write(base_path, version, *names):
    for name in (*names, "saved_model.pb"):
        path = paths.join(base_path, version, name)
        paths.write_atomically(path, f"{name} of {version}")


def test_newest_is_the_highest_number_on_a_disk_and_in_a_bucket(base_path):
    assert versions.list_versions(base_path) == {}
    assert versions.next_number(base_path) == 1
    for name in ("9", "10", "00002", "tmp.11", "withdrawn.12", "notes"):
        write(base_path, name)
    for name in ("-3", "2a", str(2**63), "٣", "²", "9/13"):
        write(base_path, name)
    if not paths.is_bucket(base_path):  # A link counts if it leads somewhere.
        os.symlink("12", paths.join(base_path, "12"))
        os.symlink("absent", paths.join(base_path, "11"))
    paths.write_atomically(paths.join(base_path, "14"), "a file")
    if paths.is_bucket(base_path):  # It counts when its graph is there.
        paths.write_atomically(paths.join(base_path, "15/manifest.json"), "{}")
    assert versions.list_versions(base_path) == {
        2: paths.join(base_path, "00002"),
        9: paths.join(base_path, "9"),
        10: paths.join(base_path, "10"),
    }
    assert versions.next_number(base_path) == 11
    newest = paths.join(base_path, "10")
    assert versions.find_newest(base_path) == newest
    assert versions.find_newest(newest) == newest
    absent = paths.join(base_path, "absent")
    assert versions.list_versions(absent) == {}
    with pytest.raises(FileNotFoundError, match="holds no exported version"):
        versions.find_newest(absent)


@pytest.fixture
def version(tmp_path):
    """A version with a manifest, which a blessing does not change."""
    write(str(tmp_path), "1", "assets/dataset.json", "fingerprint.pb")
    versions.write_manifest(str(tmp_path / "1"), {"model": "test"})
    (tmp_path / "1/blessing.json").write_text("{}")
    return tmp_path / "1"


def test_manifest_tells_every_difference(version):
    assert versions.changed_files(str(version)) == []
    manifest = json.loads((version / "manifest.json").read_text())
    del manifest["files"]["assets/dataset.json"]
    (version / "manifest.json").write_text(json.dumps(manifest))
    (version / "saved_model.pb").write_text("another graph")
    (version / "fingerprint.pb").unlink()
    (version / "variables").mkdir()
    (version / "variables/variables.index").write_text("")
    assert versions.changed_files(str(version)) == [
        "assets/dataset.json",
        "fingerprint.pb",
        "saved_model.pb",
        "variables/variables.index",
    ]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"files": {"a": {}}}', '{"files": []}']
)
def test_damaged_manifest_is_named(version, text):
    (version / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"1/manifest\.json cannot be read"):
        versions.changed_files(str(version))
    assert versions.find_same(str(version.parent), {}) is None


@pytest.mark.parametrize("make", [os.symlink, lambda _, new: os.mkfifo(new)])
@pytest.mark.parametrize("name", ["x", "assets/x", "saved_model.pb"])
def test_only_files_of_its_own_are_in_a_version(version, tmp_path, make, name):
    (tmp_path / "other").write_text("other")
    (version / name).unlink(missing_ok=True)
    make(tmp_path / "other", version / name)
    for look in (versions.list_plain_files, versions.changed_files):
        with pytest.raises(ValueError, match=f"{name} must be a file of its"):
            look(str(version))
    (version / "manifest.json").unlink()
    if make is os.symlink:  # As in a SavedModel that was downloaded.
        assert name in versions.list_plain_files(str(version))
        return
    with pytest.raises(ValueError, match=f"{name} must be a file of its"):
        versions.list_plain_files(str(version))


@pytest.mark.parametrize("name", ["../2", "assets/../../2", "ABSOLUTE"])
def test_manifest_names_no_file_elsewhere(version, tmp_path, name):
    (tmp_path / "2").write_text("other")
    name = name.replace("ABSOLUTE", str(tmp_path / "2"))
    digest = hashlib.sha256(b"other").hexdigest()
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": digest}
    (version / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"{name} is not below the version"):
        versions.list_plain_files(str(version))


def test_same_model_is_found_by_its_facts(version):
    base_path = str(version.parent)
    assert versions.find_same(base_path, {"model": "test"}) == str(version)
    assert versions.find_same(base_path, {"model": "other"}) is None
    assert versions.find_same(str(version.parent / "absent"), {}) is None


def test_version_may_be_published_only_as_it_was_tried(version):
    path = version / signature.BLESSING_FILE
    for text in ("", '{"blessed": tr', "[]", None):
        path.unlink() if text is None else path.write_text(text)
        assert "has not been tried" in blessing.refusal(str(version))
    path.write_text("{}")
    assert "has changed since it was tried" in blessing.refusal(str(version))
    good = {"name": "loads", "passed": True, "detail": "fast"}
    bad = {"name": "warm-up", "passed": False, "detail": "slow"}
    found = blessing.write_blessing(str(version), [good, bad])
    assert found == blessing.read_blessing(str(version))
    assert blessing.refusal(str(version)) == (
        f"{version} failed when it was tried: warm-up (slow)."
    )
    blessing.write_blessing(str(version), [good])
    assert blessing.refusal(str(version)) == ""
    with open(version / signature.MANIFEST_FILE, "a") as file:
        file.write(" ")
    assert "has changed since it was tried" in blessing.refusal(str(version))
