"""What the manifests set makes processes train together."""

import json
import os

import pytest

from deploy.kubernetes import join
from tests.deploy import test_kubernetes, workers
from tests.samples import write_backbone

pytestmark = pytest.mark.slow


def joined(job, index):
    """What the command of a pod gives to the trainer that it becomes."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in test_kubernetes.job_environment(job, index).items():
            patch.setenv(name, value)
        patch.setattr(os, "execve", lambda *call: calls.append(call))
        join.main(test_kubernetes.job_command(job)[2:])
    ((_, (_, _, _, *arguments), environment),) = calls
    return environment, arguments


def test_two_pods_of_the_training_job_train_one_model(tiny_records, tmp_path):
    (job,) = test_kubernetes.by_kind(test_kubernetes.build("train"), "Job")
    pods = [joined(job, index) for index in range(2)]
    assert pods[0][1] == pods[1][1]
    configs = workers.bring_here(
        [variables["TF_CONFIG"] for variables, _ in pods],
        ["train-0.train:2222", "train-1.train:2222"],
    )
    job_dir = tmp_path / "run"
    write_backbone(tmp_path / "backbone.weights.h5", num_kinds=3)
    codes, errors = workers.train(
        [{"TF_CONFIG": config} for config in configs],
        [
            *pods[0][1],
            f"--data_dir={tiny_records}",
            f"--job_dir={job_dir}",
            f"--features_dir={tmp_path / 'features'}",
            f"--weights={tmp_path / 'backbone.weights.h5'}",
            *workers.SHORT,
        ],
        whole=False,
    )
    assert codes == [0, 0], errors
    for error in errors:
        assert "Strategy: multi_worker with 2 replica(s)" in error
    (start,) = json.loads((job_dir / "run.json").read_text())["starts"]
    assert start["worker"] == "worker-0"
    assert len((job_dir / "history.csv").read_text().splitlines()) == 2
