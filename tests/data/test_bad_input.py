"""What users give by mistake: one sentence, exit code 1, no data set."""

import gzip
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from tests.conftest import encode
from tests.data.builders import gradient, make_head, write_dicom
from trainer.data import records
from trainer.data.build import manifest, output, sources
from trainer.data.images import readers

BOMB_SIDE = 30_000


@pytest.fixture
def folders(tmp_path):
    """Two classes of six heads each."""
    for index in range(12):
        folder = tmp_path / "scans" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = PIL.Image.fromarray(make_head(index, size=32))
        image.save(folder / f"{index:02d}.png")
    return tmp_path / "scans"


def run(*arguments, timeout=60, **options):
    """The command; it must end soon, and in one line."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "trainer.data.build_records",
            "--num_workers=1",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def assert_refused(done, output_dir, *parts):
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("build_records: ")
    for part in parts:
        assert part in done.stderr
    assert not (output_dir / records.DATASET_FILE).exists()


def refuse(folders, tmp_path, *parts):
    output_dir = tmp_path / "r"
    done = run(f"--input_dir={folders}", f"--output_dir={output_dir}")
    assert_refused(done, output_dir, *parts)


def bomb(image_format: str) -> bytes:
    """A small file whose header announces 30,000 x 30,000 pixels."""
    side = BOMB_SIDE
    if image_format == "TIFF":
        entries = [(256, side), (257, side), (258, 8), (259, 1), (262, 1)]
        entries += [(273, 8), (277, 1), (278, side), (279, 99)]
        body = b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
        head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
        return head + body + b"\0" * 100
    data = bytearray(encode(gradient(), image_format))
    if image_format == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif image_format == "JPEG":
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">HH", side, side)
    elif image_format == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    else:
        data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "GIF", "TIFF"])
def test_bomb_is_refused_by_its_header(tmp_path, image_format):
    import time
    import tracemalloc

    (tmp_path / "x").write_bytes(bomb(image_format))
    start = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"30000|pixels are more than"):
            readers.read_images(str(tmp_path / "x"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6 and time.monotonic() - start < 2


@pytest.mark.parametrize(
    "data",
    [
        b"no format at all" * 9,
        gzip.compress(b"no volume" * 99),
    ],
    ids=["unknown", "gz"],
)
def test_other_formats_are_refused(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"not an image|without a NIfTI"):
        readers.read_images(str(tmp_path / "x.png"))


@pytest.mark.parametrize(
    "image_format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000"]
)
def test_damaged_images_raise_nothing_but_value_errors(tmp_path, image_format):
    try:
        data = encode(gradient(), image_format)
    except (OSError, KeyError):
        pytest.skip("this Pillow does not write the format")
    path = tmp_path / "x"
    for part in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(ValueError):
            readers.read_images(str(path))
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            damaged[place] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            readers.read_images(str(path))
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_every_exif_orientation_is_upright(tmp_path, orientation, image_format):
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x"
    PIL.Image.fromarray(gradient()).save(path, image_format, exif=exif)
    (image,) = readers.read_images(str(path))
    np.testing.assert_array_equal(image.pixels, turned(gradient()))


def make_pipe(path):
    os.mkfifo(path)


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


@pytest.mark.parametrize("make", [make_pipe, make_socket])
def test_pipe_or_socket_is_refused_and_never_opened(folders, tmp_path, make):
    make(folders / "a" / "x.png")
    refuse(folders, tmp_path, "x.png is a pipe, socket or device")


def test_folder_with_the_name_of_an_image_is_a_folder(folders):
    (folders / "a" / "x.jpg").mkdir()
    (folders / "a" / "00.png").rename(folders / "a" / "x.jpg" / "00.png")
    found = [source.image_id for source in sources.list_folders(str(folders))]
    assert "a/x.jpg/00.png" in found and len(found) == 12


def test_links_that_would_lose_images_are_refused(folders, tmp_path):
    (folders / "a" / "again").symlink_to(folders / "b")
    with pytest.raises(ValueError, match="again is a link to a folder"):
        sources.list_folders(str(folders))
    (folders / "a" / "again").unlink()
    (folders / "c").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="c is a link to nothing"):
        sources.list_folders(str(folders))
    (folders / "c").unlink()
    (folders / "a" / "x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"x\.png cannot be found"):
        sources.list_folders(str(folders))


def test_link_to_itself_is_refused(folders):
    (folders / "a" / "x.png").symlink_to(folders / "a" / "x.png")
    with pytest.raises(ValueError, match=r"x\.png cannot be found"):
        sources.list_folders(str(folders))


@pytest.mark.parametrize(
    "name",
    [b"line\nbreak.png", b"tab\t.png", b"latin-\xfc", b"\x1b[0m.png"],
)
def test_name_that_no_table_can_hold_is_refused(folders, tmp_path, name):
    with open(os.path.join(os.fsencode(folders / "a"), name), "wb") as file:
        file.write(encode(gradient()))
    refuse(folders, tmp_path, "in its name; change it")


def test_unicode_names_and_long_paths_are_kept(folders, tmp_path):
    long = folders / "a" / "/".join(["deep" * 50] * 8)
    long.mkdir(parents=True)
    (folders / "a" / "00.png").rename(long / "Läsion 病変 🩻.png")
    done = run(f"--input_dir={folders}", f"--output_dir={tmp_path / 'r'}")
    assert done.returncode == 0, done.stderr
    assert "病変" in (tmp_path / "r" / "images.csv").read_text("utf-8")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX rights")
def test_what_may_not_be_read_is_refused(folders, tmp_path, monkeypatch):
    def refuse_listing(path, walk=os.walk, onerror=None):
        onerror(PermissionError(13, "Permission denied", str(path)))
        return iter(())

    monkeypatch.setattr(os, "walk", refuse_listing)
    with pytest.raises(ValueError, match=r"cannot be listed \(Permission"):
        sources.list_folders(str(folders))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.jpg", b"hello", "not an image"),
        ("cut.png", encode(make_head(1, size=32))[:200], "damaged"),
        ("bomb.png", bomb("PNG"), ""),
        (
            "x.nii.gz",
            gzip.compress(b"\0" * 999, mtime=0),
            "without a NIfTI volume",
        ),
    ],
)
def test_command_names_the_unreadable_file(
    folders, tmp_path, name, data, reason
):
    (folders / "a" / name).write_bytes(data)
    refuse(folders, tmp_path, f"a/{name}", reason, "--skip_unreadable")


def test_command_names_a_dicom_file_without_its_patient(folders, tmp_path):
    write_dicom(folders / "a" / "x.dcm", gradient(), NumberOfFrames=9)
    output_dir = tmp_path / "r"
    done = run(f"--input_dir={folders}", f"--output_dir={output_dir}")
    assert_refused(done, output_dir, "a/x.dcm", "cut off")
    assert "secret" not in (done.stdout + done.stderr).lower()


def test_output_that_cannot_be_made_is_refused(folders, tmp_path):
    (tmp_path / "file").write_text("")
    output_dir = tmp_path / "file" / "r"
    done = run(f"--input_dir={folders}", f"--output_dir={output_dir}")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr and "file" in done.stderr


def write_manifest(tmp_path, data):
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
        ("path,label\n../x.png,x\n", "line 2: .*leads out"),
        ("path,label\n/etc/passwd,x\n", "line 2: .*leads out"),
        ("path,label\nlink.png,x\n", "line 2: .*leads out"),
        ('path,label\na.png,"x\ny"\n', "line 3: .*in its label"),
        ("path,label\na.png\0,x\n", "line 2: .*in its path"),
        ("path,label,split\na.png,x,dev\n", "line 2: split dev is not train"),
        ("path,label,split\na.png,x,train\nb.png,x,\n", "a split for 1 of 2"),
    ],
)
def test_wrong_manifest_is_refused_with_its_line(tmp_path, data, message):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.png").symlink_to("/etc/passwd")
    path = write_manifest(tmp_path, data)
    with pytest.raises(ValueError, match=message) as info:
        manifest.read_manifest(path)
    assert path in str(info.value)


@pytest.mark.parametrize(
    "data",
    [
        "path,label\r\na.png,x\r\nb.png,y\r\n",
        "path,label\ra.png,x\rb.png,y\r",
        "\ufeffPath, Label\na.png, x\n\n,\nb.png,y",
        '"label","path"\n"x","a.png"\n"y","b.png"\n',
    ],
)
def test_manifest_of_a_spreadsheet_is_read(tmp_path, data):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    found = manifest.read_manifest(write_manifest(tmp_path, data))
    assert [(s.image_id, s.class_name) for s in found] == [
        ("a.png", "x"),
        ("b.png", "y"),
    ]


def test_messages_about_a_manifest_do_not_name_patients(tmp_path):
    without_header = write_manifest(tmp_path, "a.png,x,SECRET-7\n")
    with pytest.raises(ValueError, match="no path") as info:
        manifest.read_manifest(without_header)
    assert "secret" not in str(info.value).lower()
    lines = "path,label,patient_id\nSECRET-7/gone.png,x,SECRET-7\n"
    with pytest.raises(ValueError, match="line 2") as info:
        manifest.read_manifest(write_manifest(tmp_path, lines))
    assert "(patient)/gone.png" in str(info.value)
    assert "SECRET" not in str(info.value)


def test_command_refuses_a_wrong_manifest_in_one_line(tmp_path):
    path = write_manifest(tmp_path, "path;label\na.png;x\n")
    done = run(f"--manifest={path}", f"--output_dir={tmp_path / 'r'}")
    assert_refused(done, tmp_path / "r", "m.csv", "semicolons")


def test_fewer_groups_than_splits_is_refused(tmp_path):
    for index in range(2):
        folder = tmp_path / "scans" / "ab"[index]
        folder.mkdir(parents=True)
        image = PIL.Image.fromarray(make_head(index, size=32))
        image.save(folder / "x.png")
    refuse(tmp_path / "scans", tmp_path, "build_records: ")


def test_one_class_is_refused(folders, tmp_path):
    for path in (folders / "b").iterdir():
        path.unlink()
    (folders / "b").rmdir()
    refuse(folders, tmp_path, "two classes or more")


def test_unreadable_rights_of_a_file_are_named(folders, tmp_path):
    path = folders / "a" / "00.png"
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(stat.S_IRUSR)
        pytest.skip("this user may read everything")
    refuse(folders, tmp_path, "a/00.png", "Permission denied")


def test_output_below_a_file_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(OSError, match=r"cannot be made .*choose another"),
        output.building(str(tmp_path / "file" / "records")),
    ):
        pass


def test_eps_is_not_handed_to_ghostscript(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", refuse)
    path = tmp_path / "x.jpg"
    PIL.Image.new("L", (8, 8)).save(path, "EPS")
    with pytest.raises(ValueError, match="PostScript"):
        readers.read_images(str(path))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(99), "HEIF photo"),
        (b"NRRD0004\ntype: short", "NRRD volume"),
        (b"ObjectType = Image", "MetaImage volume"),
        (b"%PDF-1.7", "PDF document"),
        (b"<svg xmlns=", "SVG drawing"),
    ],
)
def test_format_that_is_not_read_is_named(data, name):
    with pytest.raises(ValueError, match=f"{name}, which is not read; convert"):
        readers.decode_images(data)


def test_bomb_beyond_pillow_s_own_limit_says_what_to_do(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    data = encode(gradient())
    with pytest.raises(ValueError, match=r"more than the .* scale the image"):
        readers.decode_images(data)


def test_files_beside_the_class_folders_are_counted(folders, tmp_path):
    (folders / "lost.png").write_bytes(encode(gradient()))
    (folders / ".hidden").write_bytes(b"")
    done = run(f"--input_dir={folders}", f"--output_dir={tmp_path / 'r'}")
    assert done.returncode == 0, done.stderr
    assert "left out: 1 file outside of the class folders" in done.stdout
    report = json.loads((tmp_path / "r" / output.AUDIT_FILE).read_text())
    assert report["left_out"] == 1


def test_files_beside_the_class_folders_of_a_split_are_counted(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / "lost.png").write_bytes(b"")
    assert sources.count_left_out(str(tmp_path)) == 2


def test_set_without_a_readable_image_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.png").write_bytes(b"text")
    done = run(
        f"--input_dir={tmp_path / 'in'}",
        f"--output_dir={tmp_path / 'r'}",
        "--skip_unreadable",
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "None of the 2 files can be read" in done.stderr
