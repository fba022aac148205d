"""What the manifests set makes processes train together."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, write_backbone
from tests.deploy import test_kubernetes, workers

pytestmark = pytest.mark.slow


def joined(job, index, directory):
    """What the command of a pod gives to the command that it becomes.

    A module that prints its variables and arguments takes the place of the
    latter.
    """
    command = test_kubernetes.job_command(job)
    *package, name = command[3].split(".")
    folder = directory.joinpath(*package)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").touch()
    (folder / f"{name}.py").write_text(
        "import json, os, sys\n"
        "print(json.dumps([dict(os.environ), sys.argv[1:]]))\n"
    )
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=directory,
        env=os.environ
        | {"PYTHONPATH": str(ROOT)}
        | test_kubernetes.job_environment(job, index),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_two_pods_of_the_training_job_train_one_model(tiny_records, tmp_path):
    (job,) = test_kubernetes.by_kind(test_kubernetes.build("train"), "Job")
    pods = [joined(job, index, tmp_path) for index in range(2)]
    assert pods[0][1] == pods[1][1]
    configs = workers.bring_here(
        [variables["TF_CONFIG"] for variables, _ in pods],
        ["train-0.train:2222", "train-1.train:2222"],
    )
    job_dir = tmp_path / "run"
    write_backbone(tmp_path / "backbone.weights.h5")
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
