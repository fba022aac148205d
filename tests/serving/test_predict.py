"""The command, as a user runs it, and what it prints."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from serving import client, image_files, predict
from tests.samples import SHARED
from tests.serving import brightness

DARK = client.Prediction((0.75, 0.25), "dark", 0, 0.25, False, True)
THREE_WAY = client.Prediction((0.1, 0.2, 0.7), "c", 2, 0.7, None, True)
ANSWERS = [
    image_files.Answer("a,b.png", DARK, None),
    image_files.Answer("bad.png", None, "it is no image"),
    image_files.Answer("longer.png", THREE_WAY, None),
]


def ask(target, *arguments):
    """Runs the command on the server of the model."""
    flags = (f"--target={target}", f"--model_name={brightness.MODEL_NAME}")
    return subprocess.run(
        [sys.executable, "-m", "serving.predict", *flags, *arguments],
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.png").write_bytes(brightness.encode_image(204))
    (tmp_path / "a").mkdir()
    scan = brightness.encode_image(51, "BMP")
    (tmp_path / "a" / "scan.bmp").write_bytes(scan)
    for name in (".hidden", "Thumbs.db", "b.png:Zone.Identifier"):
        (tmp_path / name).write_text("not an image")
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "b.png").write_text("not an image")
    return tmp_path


def test_folder_behind_a_link_is_walked_through_once(folder, tmp_path):
    (folder / "c").symlink_to(folder / "a")
    files = image_files.find_files([str(folder), "x.png"])
    names = ("b.png", "a/scan.bmp", "c/scan.bmp")
    assert files == [*(f"{folder}/{name}" for name in names), "x.png"]
    (folder / "a" / "again").symlink_to(folder)
    with pytest.raises(ValueError, match="again is a link to a folder that"):
        image_files.find_files([str(folder)])


def test_folder_gives_a_row_for_each_image(rest_target, folder):
    done = ask(rest_target, "--batch_size=1", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["file", "decision", "score", "threshold", "unlike"],
        [f"{folder}/b.png", "bright", "0.8000", "0.5000", "yes"],
        [f"{folder}/a/scan.bmp", "dark", "0.2000", "0.5000", "no"],
    ]


def test_unreadable_file_leaves_the_others_answered(rest_target, folder):
    (folder / "c.jpg").write_text("text")
    files = [f"{folder}/{name}" for name in ("b.png", "c.jpg", "missing.png")]
    done = ask(rest_target, "--json", *files)
    assert done.returncode == 1
    answers = json.loads(done.stdout)["predictions"]
    assert [a["label"] for a in answers] == ["bright", None, None]
    assert [a["error"] is None for a in answers] == [True, False, False]
    lines = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == files[1:]


def test_image_that_the_server_cannot_decode_is_an_error(
    rest_target, monkeypatch
):
    image = types.SimpleNamespace(
        encoded=b"garbage", suffix="#3", patient_id=""
    )
    monkeypatch.setattr(
        image_files.readers, "read_images", lambda path: [image]
    )
    with client.Client(rest_target, brightness.MODEL_NAME) as asked:
        (answer,) = image_files.predict_files(asked, ["a.png"])
    assert answer.file == "a.png#3"
    assert answer.error == "the server cannot decode it"


def test_overlays_are_written_and_rest_imports_no_tensorflow(
    rest_target, folder, tmp_path_factory, monkeypatch
):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    (folder / "a" / "b.png").write_bytes(brightness.encode_image(10))
    overlays = tmp_path_factory.mktemp("explain") / "new"
    done = ask(rest_target, f"--explain_dir={overlays}", "--json", folder)
    assert done.returncode == 0, done.stderr
    labels = [a["label"] for a in json.loads(done.stdout)["predictions"]]
    assert labels == ["bright", "dark", "dark"]
    written = [path.read_bytes() for path in overlays.iterdir()]
    assert written == [brightness.OVERLAY] * 3
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "serving.client" in imported
    assert not imported & {"tensorflow", "tensorflow_serving", "grpc", "keras"}


def test_overlays_of_different_files_have_different_names():
    files = ["a/b.png", "a_b.png", "a/b_png", "/a/b__.png", "x/../a/c.png#2"]
    names = [predict.overlay_name(file) for file in files]
    assert len(set(names)) == len(files)
    assert not any("/" in name for name in names)


def test_no_more_files_are_read_than_are_under_way(rest_target, tmp_path):
    files = [f"{tmp_path}/{index:02}.png" for index in range(40)]
    for file in files:
        pathlib.Path(file).write_bytes(brightness.encode_image(51))
    with client.Client(rest_target, brightness.MODEL_NAME) as asked:
        answers = image_files.predict_files(
            asked, files, batch_size=1, concurrency=2
        )
        assert next(answers).file == files[0]
        # Not read before its turn comes.
        os.remove(files[-1])
        rest = list(answers)
    assert [a.file for a in rest] == files[1:]
    assert [a.error is None for a in rest] == [True] * 38 + [False]


def test_dicom_file_gets_the_answer_of_its_pixels(rest_target):
    path = SHARED / "data" / "dicom" / "emri_small.dcm"
    if not path.exists():
        pytest.skip("no shared DICOM files")
    with client.Client(rest_target, brightness.MODEL_NAME) as asked:
        answers = list(image_files.predict_files(asked, [str(path)]))
    images = image_files.readers.read_images(str(path))
    assert [a.file for a in answers] == [f"{path}{i.suffix}" for i in images]
    assert [a.prediction.score for a in answers] == pytest.approx(
        [image.pixels.mean() / 255 for image in images], abs=1e-5
    )


def test_table_is_aligned():
    assert predict.format_table(ANSWERS[1:]).splitlines() == [
        "file        label  score   probabilities         unlike",
        "longer.png  c      0.7000  0.1000 0.2000 0.7000  -",
    ]


def test_class_decided_on_is_named_though_another_is_more_probable():
    called = dataclasses.replace(
        DARK, decision=True, decision_label="bright", threshold=0.2
    )
    answers = [ANSWERS[0], image_files.Answer("c.png", called, None)]
    assert predict.format_table(answers).splitlines() == [
        "file     decision  score   threshold  unlike",
        "a,b.png  negative  0.2500  -          -",
        "c.png    bright    0.2500  0.2000     -",
    ]


def test_csv_has_a_line_for_each_image():
    file = io.StringIO()
    unsure = dataclasses.replace(
        DARK, class_names=("dark", "bright"), prediction_set=(True, True)
    )
    answers = [*ANSWERS[:2], image_files.Answer("d.png", unsure, None)]
    predict.write_csv(answers, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert rows[0]["file"] == "a,b.png"
    assert float(rows[0]["probability_1"]) == 0.25
    assert rows[0]["error"] == rows[1]["label"] == ""
    assert rows[1]["error"] == "it is no image"
    assert [row["possible"] for row in rows] == ["", "", "dark|bright"]
