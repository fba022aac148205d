import json
import os

import keras
import numpy as np
import pytest

from trainer.training import feature_cache, features

FACTS = {"data": "abc", "split": "train", "num_views": 2, "seed": 0}
FEATURES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def load(directory, facts=FACTS, result=FEATURES, **arguments):
    """What the cache gives, and whether it had to be computed."""
    calls = []

    def compute():
        calls.append(1)
        return result

    found = feature_cache.load_or_compute(
        str(directory), facts, compute, **arguments
    )
    return found, bool(calls)


def test_second_call_reads_what_the_first_computed(tmp_path):
    assert load(tmp_path)[1]
    found, computed = load(tmp_path, result=None)
    assert not computed
    np.testing.assert_array_equal(found, FEATURES)
    assert isinstance(found, np.memmap)


@pytest.mark.parametrize("name", list(FACTS))
def test_any_other_fact_is_another_entry(tmp_path, name):
    load(tmp_path)
    other, computed = load(
        tmp_path, {**FACTS, name: "other"}, result=FEATURES + 1
    )
    assert computed
    np.testing.assert_array_equal(other, FEATURES + 1)
    assert not load(tmp_path)[1]


def test_damaged_entry_is_computed_anew(tmp_path):
    load(tmp_path)
    (path,) = tmp_path.glob("*.npy")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for damaged in (bytes(flipped), whole[:-7], b""):
        path.write_bytes(damaged)
        found, computed = load(tmp_path)
        assert computed
        np.testing.assert_array_equal(found, FEATURES)
        assert path.read_bytes() == whole
    (description,) = tmp_path.glob("*.json")
    description.write_text("{")
    assert load(tmp_path)[1]
    assert json.loads(description.read_text())["data"] == "abc"


def test_features_without_a_description_do_not_count(tmp_path):
    """A kill between the two files."""
    load(tmp_path)
    (description,) = tmp_path.glob("*.json")
    description.unlink()
    assert load(tmp_path)[1]


def test_directory_that_cannot_be_written_costs_only_the_cache(tmp_path):
    (tmp_path / "file").write_text("")
    found, computed = load(tmp_path / "file" / "features")
    assert computed
    np.testing.assert_array_equal(found, FEATURES)


def test_worker_that_found_them_computes_if_another_did_not(tmp_path):
    load(tmp_path)
    asked = []

    def another_has_not(has):
        asked.append(has)
        return False

    _, computed = load(tmp_path, is_chief=False, all_have=another_has_not)
    assert computed
    assert asked == [True]


def test_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    load(tmp_path, is_chief=False)
    assert os.listdir(tmp_path) == []


def test_batches_of_a_memory_mapped_file_equal_those_in_memory(
    tmp_path, monkeypatch
):
    load(tmp_path)
    mapped, _ = load(tmp_path)

    def batches():
        dataset = features.make_feature_dataset(
            mapped,
            np.array([0, 1, 0], np.int32),
            total_steps=5,
            global_batch_size=2,
            per_replica_batch_size=2,
            seed=0,
        )
        return [batch["inputs"] for batch in dataset.as_numpy_iterator()]

    in_memory = batches()
    monkeypatch.setattr(features, "MAX_BYTES_IN_MEMORY", 0)
    np.testing.assert_array_equal(batches(), in_memory)


def test_other_weights_have_another_hash():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    first = features.weights_sha256(model)
    assert first == features.weights_sha256(model)
    model.weights[-1].assign([2.0])
    assert features.weights_sha256(model) != first
