import types

import numpy as np
import pytest
import tensorflow as tf

from tests.samples import make_strategy
from trainer.training import distribution


def test_auto_takes_one_device_here():
    strategy = distribution.create_strategy("auto")
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    assert strategy.num_replicas_in_sync == 1
    assert distribution.is_chief(strategy)


@pytest.mark.parametrize(
    "variable, value, expected",
    [
        ("TPU_NAME", "local", "tpu"),
        (
            "TF_CONFIG",
            """{"cluster": {"chief": ["a:1"], "worker": ["b:1"]},
            "task": {"type": "chief", "index": 0}}""",
            "multi_worker",
        ),
        (
            "TF_CONFIG",
            """{"cluster": {"chief": ["a:1"]},
            "task": {"type": "chief", "index": 0}}""",
            "one_device",
        ),
    ],
)
def test_auto_takes_what_the_environment_names(
    variable, value, expected, monkeypatch
):
    created = []
    one_device = distribution.create_strategy("one_device")
    monkeypatch.setattr(
        distribution, "_create", lambda *a: created.append(a) or one_device
    )
    monkeypatch.setenv(variable, value)
    assert distribution.create_strategy("auto", 7) is one_device
    assert created == [(expected, 7)]


def test_multi_worker_without_a_cluster_is_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("CLUSTER_SPEC", raising=False)
    with pytest.raises(ValueError, match=r"TF_CONFIG.*--strategy=mirrored"):
        distribution.create_strategy("multi_worker")


def test_batch_that_replicas_cannot_share_names_both_and_neighbours():
    strategy = make_strategy("mirrored")
    assert distribution.per_replica_batch_size(strategy, 8) == 4
    with pytest.raises(
        ValueError,
        match=r"global_batch_size=7, num_replicas=2\. Try 6 or 8\.",
    ):
        distribution.per_replica_batch_size(strategy, 7)
    with pytest.raises(ValueError, match=r"Try 2\."):
        distribution.per_replica_batch_size(strategy, 1)
    assert distribution.per_replica_batch_size(strategy, 12, 3) == 2
    with pytest.raises(
        ValueError,
        match=r"=8, num_replicas=2, accumulation_steps=3\. Try 6 or 12\.",
    ):
        distribution.per_replica_batch_size(strategy, 8, 3)


def test_precision_auto_is_float32_on_cpu():
    assert distribution.choose_precision("auto") == "float32"


def test_float16_without_a_gpu_is_warned_of(caplog):
    with caplog.at_level("WARNING"):
        name = distribution.choose_precision("mixed_float16")
        distribution.choose_precision("mixed_bfloat16")
    assert name == "mixed_float16"
    assert [r.getMessage() for r in caplog.records] == [
        "--precision=mixed_float16 is slower than float32 without a GPU: use "
        "--precision=auto."
    ]


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ([(8, 0)], "mixed_bfloat16"),
        ([(9, 0), (8, 6)], "mixed_bfloat16"),
        ([(8, 6), (7, 0)], "mixed_float16"),
        ([(7, 5)], "mixed_float16"),
        ([(6, 1), (8, 0)], "float32"),
        ([None], "float32"),
    ],
)
def test_precision_auto_is_what_the_oldest_gpu_is_fast_at(
    monkeypatch, capabilities, name
):
    def describe(capability):
        return {"compute_capability": capability} if capability else {}

    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: capabilities
    )
    monkeypatch.setattr(tf.config.experimental, "get_device_details", describe)
    assert distribution.choose_precision("auto") == name


class Workers:
    """Two workers, of which this process is the second: row 1 is its."""

    def __init__(self, other):
        self._other = other
        self.cluster_resolver = types.SimpleNamespace(
            task_type="worker",
            task_id=1,
            cluster_spec=lambda: tf.train.ClusterSpec(
                {"worker": ["a:1", "b:1"]}
            ),
        )

    def run(self, function):
        return function()

    def gather(self, value, axis):
        return tf.concat([tf.constant([self._other], value.dtype), value], axis)


def test_arrays_of_the_chief_are_taken_however_large_ours_are():
    strategy = Workers([1, 2, 3, 4, 5, 6, -7])
    assert not distribution.is_chief(strategy)
    ours = [np.full((2, 2), 90, np.float32), np.full(2, 80, np.float32)]
    square, pair = distribution.from_chief(strategy, ours)
    np.testing.assert_array_equal(square, [[2, 3], [4, 5]])
    np.testing.assert_array_equal(pair, [6, -7])


@pytest.mark.parametrize("theirs", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_all_agree_only_if_all_say_yes(theirs, ours):
    strategy = Workers(int(theirs))
    assert distribution.all_agree(strategy, ours) == (theirs and ours)


def test_worker_with_other_records_is_named_on_every_worker():
    same, other = "0123456789abcdef", "f123456789abcdef"
    digests = {"code": same, "records": other}
    first = [int(same[:15], 16)] * 2
    with pytest.raises(ValueError, match="the same records: copy them"):
        distribution.check_agreement(Workers(first), digests, "copy them")
    distribution.check_agreement(
        Workers(first), {"code": same, "records": same}, "copy them"
    )
