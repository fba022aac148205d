"""From patients of several slices to one answer each, as they were judged."""

import csv
import json

import keras
import pytest

from tests import processes, runs
from trainer.data import input_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Slices of patients, their records and a short run."""
    directory = tmp_path_factory.mktemp("studies")
    scans, records = directory / "scans", directory / "records"
    runs.command(
        "trainer.data.sample_data",
        f"--output_dir={scans}",
        "--num_images=90",
        "--image_size=48",
    )
    runs.command(
        "trainer.data.build_records",
        f"--input_dir={scans}",
        f"--output_dir={records}",
        r"--patient_regex=(patient_\d+)",
    )
    backbone = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    backbone.save_weights(directory / "backbone.weights.h5")
    runs.command("trainer.task", *train_arguments(directory))
    return directory


def train_arguments(directory, *flags):
    return [
        f"--data_dir={directory / 'records'}",
        f"--job_dir={directory / 'run'}",
        f"--weights={directory / 'backbone.weights.h5'}",
        "--image_size=32",
        "--head_epochs=1",
        "--feature_views=1",
        "--fine_tune_epochs=0",
        "--nodetector",
        "--study_rule=top_k:2",
        *flags,
    ]


def test_patients_get_the_evaluated_answer(workspace):
    evaluation = workspace / "run/evaluation"
    found = json.loads((evaluation / "metrics.json").read_text())["per_patient"]
    data_dir = str(workspace / "records")
    info = input_pipeline.read_dataset_info(data_dir)
    files = input_pipeline.split_files(data_dir, info, "test")
    groups = input_pipeline.read_index(data_dir, info)["test"].groups
    for i, encoded in enumerate(input_pipeline.iterate_encoded(files)):
        folder = workspace / "patients" / groups[i]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(encoded)
    with open(evaluation / "predictions_by_group.csv", newline="") as file:
        rows = {
            r["id"]: r for r in csv.DictReader(file) if r["split"] == "test"
        }
    assert len(rows) == found["splits"]["test"]["num_images"] < len(groups)
    with runs.serving_from(workspace / "run/export") as targets:
        answers = runs.ask(
            targets["rest"], ["--by=folder", workspace / "patients"]
        )
    assert {a["file"].rsplit("/")[-1] for a in answers} == set(rows)
    for answer in answers:
        row = rows[answer["file"].rsplit("/")[-1]]
        score = float(row["score"])
        assert answer["score"] == pytest.approx(score, abs=1e-5)
        assert answer["study_rule"] == "top_k:2"
        if abs(score - found["operating_point"]) > 1e-5:
            assert answer["decision_label"] == row["decision"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--study_rule=median", "must be mean, max"),
        ("--ordinal=sorted", "at least three"),
    ],
)
def test_wrong_rule_is_one_sentence(workspace, flag, message):
    done = processes.run("trainer.task", *train_arguments(workspace, flag))
    assert done.returncode == 1
    runs.assert_one_sentence(done.stderr, "trainer.task:", message)
