import json
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.samples import ROOT, make_strategy
from trainer.training import distribution, run_record


def start(argv=("python", "-m", "trainer.task")):
    return run_record.describe_start(list(argv), {"num_replicas": 2}, "abc")


def test_start_names_versions_data_and_hardware():
    record = start()
    assert record["versions"]["tensorflow"] == tf.__version__
    assert record["versions"]["keras"] == keras.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["python"].startswith("3.")
    assert "lightbox" in record["versions"]
    assert record["dataset_fingerprint"] == "abc"
    assert record["num_replicas"] == 2
    assert record["start_time"].endswith("+00:00")
    assert record["command"] == "python -m trainer.task"


def test_commit_is_that_of_the_repository_or_none(tmp_path):
    commit = run_record.git_commit(str(ROOT / "trainer/training"))
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
    )
    if head.returncode:
        assert commit is None
    else:
        assert commit.removesuffix("-dirty") == head.stdout.strip()
    assert run_record.git_commit(str(tmp_path)) is None


def test_package_in_a_repository_not_its_own_has_no_commit(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert run_record.git_commit(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["--seed=1", "--api_token=abc"], "--seed=1 '--api_token=***'"),
        (["--password", "abc", "--seed=1"], "--password '***' --seed=1"),
        (["--data_dir=s3://me:pw@host/x"], "'--data_dir=s3://***@host/x'"),
        (
            ["--data_dir=https://h/x?X-Goog-Signature=ab&y=1"],
            "'--data_dir=https://h/x?X-Goog-Signature=***&y=1'",
        ),
    ],
)
def test_secrets_are_not_recorded(arguments, command):
    assert start(arguments)["command"] == command


def test_each_start_is_kept(tmp_path):
    for i in range(3):
        run_record.append(str(tmp_path), {"start_time": i})
    record = json.loads((tmp_path / "run.json").read_text())
    assert record == {"starts": [{"start_time": i} for i in range(3)]}


@pytest.mark.parametrize("text", ["{", "[]", '{"starts": 3}', "{}"])
def test_file_that_is_no_record_is_not_overwritten(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is not a record"):
        run_record.append(str(tmp_path), {})
    assert (tmp_path / "run.json").read_text() == text


def test_hardware_is_described():
    found = distribution.describe(make_strategy("mirrored"))
    assert found["strategy"] == "MirroredStrategy"
    assert found["num_replicas"] == 2
    assert found["worker"] == "worker-0"
    assert found["devices"][0]["type"] == "CPU"
    json.dumps(found)
