import json
import os

import pytest

from trainer import vertex


@pytest.fixture
def metric_file(tmp_path, monkeypatch):
    path = tmp_path / "reports" / "output.metrics"
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(path))
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "7")
    return path


def test_trial_of_a_tuning_job_reports_defined_metrics(metric_file):
    vertex.report_metrics(
        {"roc_auc": 0.875, "brier": None, "f1": float("nan"), "log_loss": 0.5},
        12,
    )
    lines = [json.loads(line) for line in metric_file.read_text().splitlines()]
    assert [
        {k: v for k, v in line.items() if k != "timestamp"} for line in lines
    ] == [
        {
            name: value,
            "trial": "7",
            "global_step": "12",
            "checkpoint_path": "",
        }
        for name, value in (("roc_auc", "0.875"), ("log_loss", "0.5"))
    ]


def test_other_jobs_report_nothing(metric_file, monkeypatch):
    monkeypatch.delenv("CLOUD_ML_HP_METRIC_FILE")
    monkeypatch.delenv("CLOUD_ML_TRIAL_ID")
    vertex.report_metrics({"roc_auc": 0.9}, 1)
    assert not metric_file.parent.exists()


BASE = {
    "AIP_CHECKPOINT_DIR": "gs://b/run/3/checkpoints/",
    "AIP_TENSORBOARD_LOG_DIR": "gs://b/run/3/logs/",
    "AIP_MODEL_DIR": "gs://b/run/3/model/",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables of Vertex AI; all others are absent."""
    for name in [n for n in os.environ if n.startswith("AIP_")]:
        monkeypatch.delenv(name)

    def set_variables(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_without_a_job_no_path_has_a_default(environment):
    for flag in ("data_dir", "job_dir", "export_dir"):
        assert vertex.default_path(flag) == ""


def test_directories_of_a_trial_are_those_of_its_run(environment):
    environment(BASE)
    assert vertex.default_path("job_dir") == "gs://b/run/3"
    assert vertex.default_path("export_dir") == "gs://b/run/3/model"


@pytest.mark.parametrize(
    ("variable", "path"),
    [
        ("AIP_CHECKPOINT_DIR", "gs://b/other/checkpoints/"),
        ("AIP_TENSORBOARD_LOG_DIR", "gs://b/run/3/events/"),
    ],
)
def test_directories_apart_are_refused(environment, variable, path):
    environment(BASE | {variable: path})
    with pytest.raises(ValueError, match=f"{variable}={path[:-1]}.*--job_dir"):
        vertex.default_path("job_dir")


def test_data_are_records_of_one_directory(environment):
    environment({"AIP_TRAINING_DATA_URI": "gs://b/records/train-*"})
    assert vertex.default_path("data_dir") == "gs://b/records"
    environment({"AIP_VALIDATION_DATA_URI": "gs://b/records/"})
    assert vertex.default_path("data_dir") == "gs://b/records"
    environment({"AIP_TEST_DATA_URI": "gs://b/else/test-*.tfrecord"})
    with pytest.raises(ValueError, match=r"of one directory.*gs://b/else"):
        vertex.default_path("data_dir")


def test_list_of_images_is_not_taken_for_records(environment):
    environment(
        {
            "AIP_DATA_FORMAT": "jsonl",
            "AIP_TRAINING_DATA_URI": "gs://b/dataset/training-*",
        }
    )
    with pytest.raises(ValueError, match=r"AIP_DATA_FORMAT=jsonl.*--manifest"):
        vertex.default_path("data_dir")
