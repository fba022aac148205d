"""What users give by mistake: one sentence, no data set."""

import csv
import gzip
import hashlib
import json
import os
import socket
import stat
import tempfile
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import processes
from tests.data.builders import (
    bomb,
    build,
    encode,
    gradient,
    make_dicom,
    make_head,
    read_files,
    write_head,
    write_heads,
)
from trainer.data import records
from trainer.data.build import audit, manifest, output, scan, sources


@pytest.fixture
def folders(tmp_path):
    """Two classes of six heads each."""
    write_heads(tmp_path / "scans", range(12), "ab", size=32)
    return tmp_path / "scans"


def refuse(folders, tmp_path, *parts, **settings):
    """Builds in vain; the reason is one line, which is returned."""
    with pytest.raises((ValueError, OSError)) as info:
        build(folders, tmp_path / "r", **settings)
    reason = str(info.value)
    assert reason and "\n" not in reason
    for part in parts:
        assert part in reason
    assert not (tmp_path / "r" / records.DATASET_FILE).exists()
    return reason


def make_socket(path):
    # Its name may have few characters: it is made where it is.
    folder = os.open(path.parent, os.O_RDONLY)
    here = os.open(".", os.O_RDONLY)
    os.fchdir(folder)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.fchdir(here)
        os.close(folder)
        os.close(here)


@pytest.mark.parametrize("make", [os.mkfifo, make_socket])
def test_pipe_or_socket_is_refused_and_never_opened(folders, tmp_path, make):
    make(folders / "a" / "x.png")
    refuse(folders, tmp_path, "x.png is a pipe, socket or device")


def test_folder_with_the_name_of_an_image_is_a_folder(folders):
    (folders / "a" / "x.jpg").mkdir()
    (folders / "a" / "00.png").rename(folders / "a" / "x.jpg" / "00.png")
    files = sources.list_folders(str(folders)).files
    ids = [source.image_id for source in files]
    assert "a/x.jpg/00.png" in ids and len(ids) == 12


@pytest.mark.parametrize(
    ("link", "target", "reason"),
    [
        ("c", "gone", "c is a link to nothing"),
        ("a/x.png", "gone.png", "x.png cannot be found"),
        ("a/x.png", "a/x.png", "x.png cannot be found"),
        ("a/x", "a", "x is a link to a folder that it lies in"),
        ("c", "../scans", "c is a link to a folder that it lies in"),
        ("a/x", "../store", "y is a link to a folder that it lies in"),
    ],
)
def test_link_to_nothing_or_back_is_refused(
    folders, tmp_path, link, target, reason
):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "y").symlink_to(folders / "a")
    (folders / link).symlink_to(folders / target)
    refuse(folders, tmp_path, reason)


def test_links_are_followed_and_counted(folders, tmp_path):
    """Files, folders and classes that are links make the same records."""
    build(folders, tmp_path / "expected")
    store, linked = tmp_path / "store", tmp_path / "linked"
    folders.rename(store)
    linked.mkdir()
    (linked / "a").symlink_to(store / "a")
    (linked / "b").mkdir()
    for path in (store / "b").iterdir():
        (linked / "b" / path.name).symlink_to(path)
    build(linked, tmp_path / "r")
    expected, found = (
        read_files(tmp_path / name) for name in ("expected", "r")
    )
    report = json.loads(found.pop("audit.json"))
    assert any(": 7." in sentence for sentence in audit.summarize(report))
    assert report.pop("links") == 7
    assert report == json.loads(expected.pop("audit.json"))
    assert found == expected
    (linked / "b" / "more").symlink_to(store)
    files = sources.list_folders(str(linked)).files
    assert "b/more/a/00.png" in [source.image_id for source in files]


@pytest.mark.parametrize(
    "name", [b"line\nbreak.png", b"tab\t.png", b"latin-\xfc", b"\x1b[0m.png"]
)
def test_name_that_no_table_can_hold_is_refused(folders, tmp_path, name):
    with open(os.path.join(os.fsencode(folders / "a"), name), "wb") as file:
        file.write(encode(gradient()))
    refuse(folders, tmp_path, "in its name; change it")


def test_unicode_names_and_long_paths_are_kept(folders, tmp_path):
    long = folders / "a" / "/".join(["deep" * 50] * 8)
    long.mkdir(parents=True)
    (folders / "a" / "00.png").rename(long / "Läsion 病変 🩻.png")
    build(folders, tmp_path / "r")
    assert "病変" in (tmp_path / "r" / "images.csv").read_text("utf-8")


def test_folder_that_may_not_be_listed_is_refused(
    folders, tmp_path, monkeypatch
):
    def walk(path, onerror, **_):
        onerror(PermissionError(13, "Permission denied", str(path)))

    monkeypatch.setattr(os, "walk", walk)
    refuse(folders, tmp_path, "cannot be listed (Permission")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.jpg", b"hello", "not an image"),
        ("cut.png", encode(make_head(1, size=32))[:200], "damaged"),
        ("bomb.png", bomb("PNG"), ""),
        ("long.png", encode(np.zeros((2, 66_000), np.uint8)), "66000 x 2"),
        ("x.nii.gz", gzip.compress(b"\0" * 999, mtime=0), "without a NIfTI"),
        ("x.dcm", make_dicom(gradient(), NumberOfFrames=9), "cut off"),
    ],
)
def test_unreadable_file_is_named(folders, tmp_path, name, data, reason):
    (folders / "a" / name).write_bytes(data)
    shown = name
    if name.endswith((".dcm", ".nii.gz")):
        shown = "sha256-" + hashlib.sha256(data).hexdigest()[:12]
    parts = (f"a/{shown}", reason, "--skip_unreadable")
    assert "secret" not in refuse(folders, tmp_path, *parts).lower()


def test_any_failure_is_of_the_file_that_it_came_from(
    folders, tmp_path, monkeypatch
):
    make_thumbnail = scan.make_thumbnail

    def fail(pixels):
        if pixels.shape == (33, 32):
            raise RuntimeError("Patient Secret")
        return make_thumbnail(pixels)

    (folders / "a" / "odd.png").write_bytes(encode(gradient(33, 32)))
    monkeypatch.setattr(scan, "make_thumbnail", fail)
    reason = refuse(folders, tmp_path, "a/odd.png", "RuntimeError")
    assert "Secret" not in reason
    info = build(folders, tmp_path / "r", skip_unreadable=True)
    assert sum(info.num_images(split) for split in info.splits) == 12


def test_output_that_cannot_be_made_is_refused(folders, tmp_path):
    (tmp_path / "r").write_text("")
    with pytest.raises(OSError, match=r"cannot be made .*choose another"):
        build(folders, tmp_path / "r" / "records")
    with pytest.raises(ValueError, match="must not be mixed"):
        build(folders, folders / "records")


def test_half_a_window_is_refused_before_any_file_is_read(folders, tmp_path):
    refuse(folders, tmp_path, "go together", window_center=40.0)
    assert not (tmp_path / "r").exists()


def write_manifest(tmp_path, data):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    path = tmp_path / "m.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("päth,label\n".encode("latin-1"), "not UTF-8"),
        ("path,label\na.png,x\n".encode("utf-16"), "not UTF-8"),
        ("path,label\na.png,x\n".encode("utf-16-le"), "UTF-16"),
        ("path;label\na.png;x\n", "semicolons instead of commas"),
        ("path\tlabel\na.png\tx\n", "tabs instead of commas"),
        ("a.png,x\n", "no path and no label"),
        ("path,label,age\na.png,x,9\n", "Remove age, or keep it"),
        ("path,path,label\na.png,a.png,x\n", "must be path,label"),
        ("", "must be path,label"),
        ("path,label\n", "no lines"),
        ('path,label\na.png,"x\n', r"line 2: .*end"),
        ('path,label\na.png,"x"y\n', "line 2: "),
        ("path,label\na.png,\n", "line 2: no label"),
        ("path,label\na.png,x\nb.png,y,z\n", "line 3: 3 columns instead of 2"),
        ("path,label\na.png,x\n\ngone.png,x\n", "line 4: gone.png does not"),
        ("path,label\na.png,x\n./a.png,x\n", "line 3: the path of line 2"),
        ("path,label\nfolder,x\n", "folder is a folder"),
        ("path,label\npipe,x\n", "pipe is a pipe"),
        ("path,label\n/gone/x.png,x\n", "line 2: /gone/x.png does not"),
        ("path,label\na.png,NaN\n", "line 2: no label"),
        ("path,label\na.png,x|y\n", r"line 2: label x\|y names several; one"),
        ('path,label\na.png,"x\ny"\n', "line 3: .*in its label"),
        ("path,label\na.png,x\na\x01.png,x\n", "line 3: .*in its path"),
        ("path,label\na.png\0,x\n", "NUL in line 2"),
        ("path,label,split\na.png,x,dev\n", "line 2: split dev is not train"),
        ("path,label,split\na.png,x,train\nb.png,x,\n", "a split for 1 of 2"),
    ],
)
def test_wrong_manifest_is_refused_with_its_line(tmp_path, data, message):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = write_manifest(tmp_path, data)
    with pytest.raises(ValueError, match=message) as info:
        manifest.read_manifest(path)
    assert path in str(info.value)


def test_manifest_that_is_not_there_is_named(tmp_path):
    path = str(tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match=f"--manifest={path} is not a"):
        manifest.read_manifest(path)


@pytest.mark.parametrize(
    "data",
    [
        "path,label\r\na.png,x\r\nb.png,y\r\n",
        "path,label\ra.png,x\rb.png,y\r",
        "\ufeffPath, Label\na.png, x\n\n,\nb.png,y",
        '"label","path"\n"x","a.png"\n"y","b.png"\n',
        ",path,label,Unnamed: 3\n0,.\\a.png,x,\n1,b.png,y,7\n",
        "path,label,patient_id\na.png,x,nan,\nb.png,y,NULL,,\n",
    ],
)
def test_manifest_of_a_spreadsheet_is_read(tmp_path, data):
    listing = manifest.read_manifest(write_manifest(tmp_path, data))
    read = [(s.image_id, s.class_name, s.patient_id) for s in listing.files]
    assert read == [("a.png", "x", ""), ("b.png", "y", "")]
    assert listing.num_ignored_columns == (2 if "Unnamed" in str(data) else 0)


CELLS = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=9)
    .map(lambda text: unicodedata.normalize("NFC", text).strip())
    .filter(lambda text: text.lower() not in manifest._MISSING)
    .filter(lambda text: "|" not in text)
)


@given(
    st.lists(
        st.tuples(CELLS, CELLS, st.sampled_from(records.SPLITS)),
        min_size=1,
        max_size=6,
    ),
    st.permutations(("path", "label", "patient_id", "split", "unnamed: 3")),
)
def test_what_is_written_to_a_manifest_is_read_from_it(rows, columns):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m.csv")
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="7")
            writer.writeheader()
            for i, (label, patient, split) in enumerate(rows):
                open(os.path.join(folder, f"{i}.png"), "w").close()
                row = {"path": f"{i}.png", "label": label}
                writer.writerow(row | {"patient_id": patient, "split": split})
        files = manifest.read_manifest(path).files
    read = [(f.class_name, f.patient_id, f.split) for f in files]
    assert [f.image_id for f in files] == [f"{i}.png" for i in range(len(rows))]
    assert read == rows


def test_manifest_may_name_files_elsewhere_and_in_other_unicode(tmp_path):
    """Ids then begin where all files have something in common."""
    for name in ("store/b/1.png", "lists/fu\u0308r.png"):
        write_head(tmp_path / name, 0, size=8)
    lines = f"{tmp_path}/store/b/1.png,fu\u0308r\nf\u00fcr.png,f\u00fcr\n"
    path = write_manifest(tmp_path / "lists", f"path,label\n{lines}")
    files = manifest.read_manifest(path).files
    ids = ["lists/fu\u0308r.png", "store/b/1.png"]
    assert [file.image_id for file in files] == ids
    assert {file.class_name for file in files} == {"f\u00fcr"}


@pytest.mark.parametrize("names", [("Tumor", "tumor"), ("a b", "ab")])
def test_classes_that_differ_in_case_or_blanks_are_refused(names):
    files = [sources.Source("", "", name) for name in ("x", *names)]
    with pytest.raises(ValueError, match=f"{names[0]}.*{names[1]}.*alike"):
        sources.check_classes(files)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ("a.png,x,SECRET-7\n", ["no path"]),
        (
            "path,label,patient_id\nSECRET-7/gone.png,x,SECRET-7\n",
            ["line 2", "(patient)/gone.png"],
        ),
    ],
)
def test_messages_about_a_manifest_do_not_name_patients(tmp_path, lines, parts):
    manifest_path = write_manifest(tmp_path, lines)
    reason = refuse("", tmp_path, *parts, manifest=manifest_path)
    assert "secret" not in reason.lower()


def test_command_ends_with_one_line_and_an_error(tmp_path):
    path = write_manifest(tmp_path, "path;label\na.png;x\n")
    flags = [f"--manifest={path}", f"--output_dir={tmp_path / 'r'}"]
    done = processes.run("trainer.data.build_records", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("build_records: ")
    assert "m.csv" in done.stderr and "semicolons" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_fewer_groups_than_splits_is_refused(tmp_path):
    for name in "ab":
        write_head(tmp_path / "scans" / name / "x.png", ord(name), size=32)
    refuse(tmp_path / "scans", tmp_path, "needs images of every class")


def test_one_class_or_an_empty_one_is_refused(folders, tmp_path):
    (folders / "b").rename(folders / "a" / "b")
    refuse(folders, tmp_path, "two classes or more")
    (folders / "empty").mkdir()
    refuse(folders, tmp_path, "holds no files")
    refuse(folders / "nothing", tmp_path, "not a folder")


def test_unreadable_rights_of_a_file_are_named(folders, tmp_path):
    path = folders / "a" / "00.png"
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(stat.S_IRUSR)
        pytest.skip("this user may read everything")
    refuse(folders, tmp_path, "a/00.png", "Permission denied")


def test_files_beside_the_class_folders_are_counted(folders, tmp_path):
    (folders / "lost.png").write_bytes(encode(gradient()))
    (folders / ".hidden").write_bytes(b"")
    build(folders, tmp_path / "r")
    report = json.loads((tmp_path / "r" / output.AUDIT_FILE).read_text())
    assert report["left_out"] == 1
    (line,) = (line for line in audit.summarize(report) if "left out" in line)
    assert line.startswith("Files outside of the class folders")
    assert line.endswith("left out: 1.")


def test_files_beside_the_class_folders_of_a_split_are_counted(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "lost.png").write_bytes(b"")
    assert sources.count_left_out(str(tmp_path)) == 2


def test_set_without_a_readable_image_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.png").write_bytes(b"text")
    reason = "None of the 2 files can be read"
    refuse(tmp_path / "in", tmp_path, reason, skip_unreadable=True)
