"""Processes with the environment of Vertex AI's machines train one model."""

import json
import os

import pytest

from tests import processes, quick, test_train
from tests.samples import write_backbone
from trainer.storage import buckets
from trainer.training import cluster

# For a run of one short epoch.
FLAGS = (
    "--head_epochs=1",
    "--image_size=32",
    "--global_batch_size=8",
    "--fine_tune_epochs=0",
    "--feature_views=1",
)


def vertex_environment(index, base, addresses, spec):
    """What Vertex AI sets in a container of a trial of a tuning job.

    After "Distributed training" (CLUSTER_SPEC, TF_CONFIG), "Environment
    variables for special Cloud Storage directories" and "Hyperparameter
    tuning" of its documentation.
    """
    shared = {"environment": "cloud", "job": json.dumps(spec)}

    def describe(roles):
        task = {"type": roles[index], "index": 0, "trial": "3"}
        machines = {r: [a] for r, a in zip(roles, addresses, strict=True)}
        return json.dumps({"cluster": machines, "task": task, **shared})

    return {
        "CLUSTER_SPEC": describe(("workerpool0", "workerpool1")),
        "TF_CONFIG": describe(("chief", "worker")),
        "AIP_MODEL_DIR": f"{base}/3/model/",
        "AIP_CHECKPOINT_DIR": f"{base}/3/checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": f"{base}/3/logs/",
        "AIP_TF_PROFILER_PORT": "6009",
        "CLOUD_ML_JOB_ID": "7712",
        "CLOUD_ML_PROJECT_ID": "123",
        "CLOUD_ML_REGION": "us-central1",
        "CLOUD_ML_TRIAL_ID": "3",
    }


@pytest.fixture
def environments(bucket_name):
    """Of a chief and a worker with addresses of this machine."""
    # Their own text is in their environment too.
    spec = {"workerPoolSpecs": [{"containerSpec": {"args": FLAGS}}]}
    here = test_train.free_addresses(2)
    return [
        vertex_environment(index, f"gs://{bucket_name}/run", here, spec)
        for index in range(2)
    ]


def test_cluster_spec_names_the_cluster_that_tf_config_names(
    environments, monkeypatch
):
    for variables in environments:
        monkeypatch.delenv("CLUSTER_SPEC", raising=False)
        monkeypatch.setenv("TF_CONFIG", variables["TF_CONFIG"])
        by_role = cluster.read_cluster()
        monkeypatch.delenv("TF_CONFIG")
        monkeypatch.setenv("CLUSTER_SPEC", variables["CLUSTER_SPEC"])
        assert cluster.read_cluster() == by_role
        assert by_role.num_tasks == 2


@pytest.mark.slow
def test_chief_and_worker_of_a_trial_train_one_model(
    environments, bucket_name, tiny_records, tmp_path
):
    url = f"gs://{bucket_name}"
    records = buckets.Folder(f"{url}/records")
    for path in tiny_records.glob("*.*"):
        records.upload(str(path), path.name)
    for index, variables in enumerate(environments):
        # Each machine has disks of its own.
        variables["AIP_TRAINING_DATA_URI"] = f"{url}/records/train-*"
        scratch = tmp_path / f"scratch{index}"
        scratch.mkdir()
        variables["TMPDIR"] = str(scratch)
    write_backbone(tmp_path / "backbone.weights.h5", quick.FEW_KINDS)
    weights = f"--weights={tmp_path / 'backbone.weights.h5'}"
    own = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    codes, errors = test_train.wait(
        [
            processes.Command(
                "tests.train_only", weights, *FLAGS, env=own | one
            )
            for one in environments
        ]
    )
    assert codes == [0, 0], errors
    for error in errors:
        assert "Strategy: multi_worker with 2 replica(s)" in error
    trial = buckets.Folder(f"{url}/run/3")
    trial_dir = tmp_path / "trial"
    trial.download(trial.list(), str(trial_dir))
    files = set(os.listdir(trial_dir))
    assert files >= {
        "checkpoints",
        "run.json",
        "medical_image_classifier.keras",
    }
    (start,) = json.loads((trial_dir / "run.json").read_text())["starts"]
    assert start["worker"] == "chief-0"
    assert os.listdir(trial_dir / "checkpoints") == ["head.npz"]
    assert len((trial_dir / "history.csv").read_text().splitlines()) == 2
    assert not list(tmp_path.glob("scratch*/*"))
