import json

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
