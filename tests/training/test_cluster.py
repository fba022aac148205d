import json
import subprocess
import sys

import pytest

from tests.samples import ROOT
from trainer.training import cluster, distribution

CHIEF_AND_WORKERS = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


@pytest.fixture
def environment(monkeypatch):
    """Sets TF_CONFIG or CLUSTER_SPEC; the other is absent."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("CLUSTER_SPEC", raising=False)

    def set_variable(name, spec, role=None, index=0):
        if role is not None:
            spec = {"cluster": spec, "task": {"type": role, "index": index}}
        text = spec if isinstance(spec, str) else json.dumps(spec)
        monkeypatch.setenv(name, text)

    return set_variable


def test_no_variable_or_an_empty_one_names_no_cluster(environment):
    assert cluster.read_cluster() is None
    for text in ("", " ", "{}"):
        environment("TF_CONFIG", text)
        assert cluster.read_cluster() is None


def test_tf_config_names_tasks_and_this_one(environment):
    environment("TF_CONFIG", CHIEF_AND_WORKERS, "worker", 1)
    assert cluster.read_cluster() == cluster.Cluster(
        CHIEF_AND_WORKERS, "worker", 1
    )
    assert distribution._choose()[0] == "multi_worker"


def test_vertex_worker_pools_are_chief_worker_and_evaluator(environment):
    spec = {
        "cluster": {
            "workerpool0": ["a:2222"],
            "workerpool1": ["b:2222", "c:2222"],
            "workerpool2": [],
            "workerpool3": ["d:2222"],
        },
        "environment": "cloud",
        "task": {"type": "workerpool1", "index": 1, "trial": "3"},
        "job": "{}",
    }
    environment("CLUSTER_SPEC", spec)
    assert cluster.read_cluster() == cluster.Cluster(
        {"chief": ["a:2222"], "worker": ["b:2222", "c:2222"]}, "worker", 1
    )
    environment("TF_CONFIG", "{}")
    assert cluster.read_cluster().role == "worker"
    environment("TF_CONFIG", {"worker": ["x:1", "y:1"]}, "worker", 0)
    assert cluster.read_cluster().tasks == {"worker": ["x:1", "y:1"]}


def test_one_machine_alone_trains_on_its_devices(environment):
    environment("TF_CONFIG", {"chief": ["a:1"]}, "chief", 0)
    assert distribution._choose()[0] == "one_device"
    environment("TF_CONFIG", {"cluster": {"worker": ["a:1"]}})
    assert distribution._choose()[0] == "one_device"


def test_evaluator_is_no_part_of_the_cluster(environment):
    assert not cluster.is_evaluator()
    environment("TF_CONFIG", CHIEF_AND_WORKERS, "evaluator", 0)
    assert cluster.is_evaluator()
    assert cluster.read_cluster().num_tasks == 3


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"cluster": {"worker": 3}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": 1}',
        '{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "w", "index": "x"}}',
    ],
)
@pytest.mark.parametrize("variable", ["TF_CONFIG", "CLUSTER_SPEC"])
def test_malformed_text_is_refused_and_quoted(variable, text, environment):
    environment(variable, text)
    with pytest.raises(ValueError, match=f"{variable} must be a JSON object"):
        cluster.read_cluster()


@pytest.mark.parametrize(
    ("spec", "role", "index", "message"),
    [
        ({"chief": ["a:1"], "ps": ["b:1"]}, "chief", 0, "parameter servers"),
        (CHIEF_AND_WORKERS, "ps", 0, "parameter servers"),
        (CHIEF_AND_WORKERS, "boss", 0, "type 'boss': only chief"),
        ({"master": ["a:1"], "worker": ["b:1"]}, "worker", 0, "'master'"),
        (CHIEF_AND_WORKERS, "worker", 2, "task 2 .* 1 chief, 2 worker"),
        (CHIEF_AND_WORKERS, "worker", -1, "task -1"),
        ({"worker": ["a:1", "b:1"]}, "chief", 0, "task 0 of type 'chief'"),
        ({"chief": ["a:1", "b:1"]}, "chief", 0, "2 chiefs"),
        ({"worker": ["a", "b:1"]}, "worker", 0, "host:port.*'a'"),
        ({"worker": ["a:1", "a:1"]}, "worker", 0, "a:1 to more than one"),
        ({"worker": ["a:1", "b:1"]}, "", 0, "its own `task`"),
    ],
)
def test_cluster_that_cannot_train_is_a_sentence(
    spec, role, index, message, environment
):
    environment("TF_CONFIG", spec, role, index)
    with pytest.raises(ValueError, match=message):
        cluster.read_cluster()


def test_block_that_takes_too_long_ends_the_process_with_a_sentence():
    # `ctypes.PyDLL` holds the interpreter's lock, as TensorFlow does.
    code = (
        "import ctypes\n"
        "from trainer.training import distribution\n"
        "with distribution._ends_after(60.0, 'no'): pass\n"
        "with distribution._ends_after(0.5, 'no peer\\n'):\n"
        "    ctypes.PyDLL(None).sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == -9
    assert done.stderr.splitlines()[-1] == "no peer"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Graph execution error:\n\nDetected at node CollectiveReduceV2 on "
            "/job:chief/replica:0/task:0/device:CPU:0\nThe following tasks are "
            "unhealthy (stopped sending heartbeats):\n"
            "/job:worker/replica:0/task:3\nThe tasks have crashed.",
            "worker 3",
        ),
        (
            "recvmsg:Connection reset by peer\nAdditional GRPC error "
            "information from remote target /job:chief/replica:0/task:0 while "
            "calling /tensorflow.WorkerService/CompleteInstance:",
            "chief 0",
        ),
        ("Deadline Exceeded on /job:worker/replica:0/task:1", ""),
    ],
)
def test_lost_task_is_the_peer_and_not_the_device_of_the_op(message, expected):
    assert cluster.find_lost_task(message) == expected
