"""Labels that a reviewer corrects, and what is refused instead."""

import json
import re

import numpy as np
import pytest

from tests.data.builders import build, read_rows
from tests.samples import encode, make_pixels
from trainer.data import input_pipeline
from trainer.data.build import audit, output
from trainer.evaluation import label_doubts, results
from trainer.evaluation.predictions import Predictions
from trainer.report import doubtful_labels


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Thirty patients of two images each, a class per patient."""
    directory = tmp_path_factory.mktemp("scans")
    for i in range(60):
        label = i // 2 % 2
        folder = directory / ("healthy", "tumor")[label]
        folder.mkdir(exist_ok=True)
        data = encode(make_pixels(i, label))
        (folder / f"{i // 2}_{'ab'[i % 2]}.png").write_bytes(data)
    return directory


def build_with(scans, data_dir, text="", encoding="utf-8"):
    """The records and what their images are called, by id."""
    path = data_dir.parent / "reviewed.csv"
    path.write_bytes(text.encode(encoding))
    info = build(
        scans,
        data_dir,
        patient_regex=r"(\d+)_",
        corrections=str(path) if text else "",
    )
    return info, {row["id"]: row for row in read_rows(data_dir)}


def write_doubts(ids):
    """The file of an evaluation that takes images of a tumor for healthy."""
    none = results.Proportion(value=None, interval=None)
    predictions = Predictions(
        ids=ids,
        groups=ids,
        labels=np.ones(len(ids), int),
        logits=np.zeros((len(ids), 2)),
    ).decide(("healthy", "tumor"), 1)
    return doubtful_labels.make_csv(
        predictions,
        label_doubts.Doubts(
            np.arange(len(ids)),
            np.zeros(len(ids), int),
            np.ones((len(ids), 2)) / 2,
            none,
        ),
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_corrected_labels_are_those_of_the_records(scans, tmp_path, encoding):
    data_dir = tmp_path / "records"
    before, old = build_with(scans, data_dir)
    # As they are called there: the patient of the path is not named.
    chosen = [i for i in old if "tumor/patient-" in i][3:6]
    kept = next(i for i in old if "healthy/" in i)
    text = write_doubts(chosen)
    # A reviewer may write what was there before, or leave a line empty.
    text += f"4,{kept},healthy, healthy ,0.7,0.3,x\n,,,,,,\n"
    after, new = build_with(scans, data_dir, text, encoding)
    assert after.fingerprint != before.fingerprint
    changed = {i for i in old if old[i]["class"] != new[i]["class"]}
    assert changed == set(chosen)
    for image_id, row in old.items():
        assert new[image_id]["split"] == row["split"]
        assert new[image_id]["group"] == row["group"]
    index = input_pipeline.read_index(str(data_dir), after)
    for split in after.splits:
        for i, label in zip(index[split].ids, index[split].labels, strict=True):
            assert after.class_names[label] == new[i]["class"]
    report = json.loads((data_dir / output.AUDIT_FILE).read_text())
    said = audit.summarize(report)
    assert "Labels that were corrected (--corrections): 3." in said
    # The same file once more, of labels that are corrected already.
    again, _ = build_with(scans, data_dir, text)
    assert again.fingerprint == after.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\nX.png,tumor\n", "line 2: there is no image X.png"),
        ("id,label\nHEALTHY,tumour\n", "line 2: label 'tumour' is none of"),
        ("id,label\nHEALTHY\n", "line 2: label '' is none of the classes"),
        (
            "id,label\nHEALTHY,tumor\nHEALTHY,healthy\n",
            "line 3: HEALTHY has another label above",
        ),
        (
            "id,label,given_label\nHEALTHY,tumor,benign\n",
            "HEALTHY is labelled healthy, not benign; the file is of other",
        ),
        ("id;label\nHEALTHY;tumor\n", "must have the columns id,label"),
        ("id,label\n", "must have the columns id,label"),
        ("id,label\nEVERY", "leaves no image of healthy"),
    ],
)
def test_file_that_is_not_of_these_images_is_refused(
    scans, tmp_path, text, message
):
    _, rows = build_with(scans, tmp_path / "records")
    healthy = [i for i in rows if rows[i]["class"] == "healthy"]
    every = "\n".join(f"{i},tumor" for i in healthy)
    text = text.replace("EVERY", every)
    text = text.replace("HEALTHY", healthy[0])
    message = message.replace("HEALTHY", healthy[0])
    with pytest.raises(ValueError, match=re.escape(message)):
        build_with(scans, tmp_path / "records", text)
    assert {r["id"]: r for r in read_rows(tmp_path / "records")} == rows


def test_file_that_is_absent_or_no_text_is_refused(scans, tmp_path):
    path = tmp_path / "corrections.csv"
    with pytest.raises(FileNotFoundError, match=r"corrections\.csv"):
        build(scans, tmp_path / "records", corrections=str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        build(scans, tmp_path / "records", corrections=str(path))
