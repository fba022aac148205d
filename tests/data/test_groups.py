"""Patients and copies that belong together."""

import collections
import json

import numpy as np
import pytest

from tests.data.builders import (
    build,
    make_dicom,
    make_facts,
    make_head,
    make_nifti,
    read_files,
    read_rows,
    write_head,
)
from trainer.data.build import audit, groups, output

NUM_PATIENTS = 5
ROOT = "1.2.826.0.1.3680043.8.498."


def test_groups_join_patients_and_copies_transitively():
    facts = [
        make_facts(0, "a", patient_key="p"),
        make_facts(1, "a", patient_key="p", sha256="c" * 64),
        make_facts(2, "a", patient_key="q", sha256="c" * 64, kin=("uid:1",)),
        make_facts(3, "a", patient_key="q"),
        make_facts(4, "a", patient_key="r", kin=("uid:1",)),
        make_facts(5, "a", kin=("uid:1", "folder:2")),
        make_facts(6, "a", kin=("folder:2",)),
    ]
    names = groups.name_groups(facts, groups.join_known(facts))
    assert len(set(names[:4])) == 1
    assert names[0] == facts[0].sha256[:16] == "0" * 16
    # Who has an id needs no series, which may be that of others.
    assert len({names[0], names[4], names[5]}) == 3
    assert names[5] == names[6]


def write_patients(folder, write):
    """Three images each of patients 0, 1, … of class a, 100, 101, … of b."""
    for patient in [*range(NUM_PATIENTS), *range(100, 100 + NUM_PATIENTS)]:
        (folder / "ab"[patient // 100]).mkdir(parents=True, exist_ok=True)
        for index in range(3):
            write(folder / "ab"[patient // 100], patient, index)


def series_writer(patient_id, name="SeriesInstanceUID", **elements):
    def write(folder, patient, index):
        data = make_dicom(
            make_head(patient * 10 + index, size=32),
            PatientID=patient_id,
            **{name: f"{ROOT}{patient + 1}"},
            **elements,
        )
        (folder / f"x{patient}-{index}.dcm").write_bytes(data)

    return write


def write_in_subfolder(folder, patient, index):
    path = folder / "images" / f"x{patient}-" / f"{index}" / "y.png"
    write_head(path, patient * 10 + index, size=32)


def count_groups(folder, output_dir, **settings):
    """Groups, and the groups and splits that each patient is in."""
    build(folder, output_dir, **settings)
    of_patient = collections.defaultdict(set)
    for row in read_rows(output_dir):
        patient = row["id"].split("x")[1].split("-")[0]
        of_patient[patient].add((row["group"], row["split"]))
    assert len(of_patient) == 2 * NUM_PATIENTS
    num_groups = len({row["group"] for row in read_rows(output_dir)})
    return num_groups, {len(places) for places in of_patient.values()}


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (series_writer(""), "frame of reference of DICOM (30 images)"),
        (series_writer("", "FrameOfReferenceUID"), "DICOM (30 images)"),
        (
            series_writer(
                "STUDY-7",
                "StudyInstanceUID",
                FrameOfReferenceUID="1.2.840.10008.1.4.1.1",
            ),
            "All files carry one PatientID, which tells none apart.",
        ),
        (write_in_subfolder, "(30 images in 10 sub-folders)"),
    ],
)
def test_series_or_subfolder_stands_for_an_unknown_patient(
    tmp_path, write, said
):
    write_patients(tmp_path / "s", write)
    assert count_groups(tmp_path / "s", tmp_path / "r") == (10, {1})
    report = json.loads((tmp_path / "r" / output.AUDIT_FILE).read_text())
    (sentence,) = (s for s in audit.summarize(report) if said in s)
    assert "--patient_regex" in sentence
    for data in read_files(tmp_path / "r").values():
        assert ROOT.encode() not in data and b"STUDY-7" not in data


def test_slices_of_a_volume_stay_together(tmp_path):
    def write(folder, patient, index):
        slices = [make_head(patient * 10 + i, size=32) for i in range(3)]
        data = make_nifti(np.stack(slices, axis=-1))
        (folder / f"x{patient}-.nii").write_bytes(data)

    write_patients(tmp_path / "s", write)
    assert count_groups(tmp_path / "s", tmp_path / "r") == (10, {1})
    assert len(read_rows(tmp_path / "r")) == 30


def test_expression_wins_over_subfolders(tmp_path):
    write_patients(tmp_path / "s", write_in_subfolder)
    settings = {"patient_regex": r"\d/y"}
    num_groups, _ = count_groups(
        tmp_path / "s", tmp_path / "r", test_fraction=0.0, **settings
    )
    assert num_groups == 3


def test_one_patient_id_on_a_class_is_named_with_the_remedy(tmp_path):
    write_patients(tmp_path / "s", series_writer("P7", "AccessionNumber"))
    with pytest.raises(ValueError, match=r"15 images of class a .*PatientID"):
        build(tmp_path / "s", tmp_path / "r")
    write = series_writer("", "AccessionNumber", StudyInstanceUID=ROOT + "3")
    write_patients(tmp_path / "s", write)
    with pytest.raises(ValueError, match=r"DICOM study.*--patient_regex"):
        build(tmp_path / "s", tmp_path / "r")
