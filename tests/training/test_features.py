import json
import os
import signal
import types

import keras
import numpy as np
import pytest

from tests.samples import IMAGE_SIZE, make_strategy
from trainer import config
from trainer.data import input_pipeline
from trainer.model import classifier
from trainer.run import Run
from trainer.training import features

FACTS = {"data": "abc", "split": "train", "view": 2, "seed": 0}
FEATURES = np.arange(12, dtype=np.float16).reshape(3, 4)


def load(directory, facts=FACTS, result=FEATURES, **arguments):
    """What the cache gives, and whether it had to be computed."""
    calls = []

    def compute(outputs):
        calls.append(1)
        outputs[:] = result

    loaded = features.load_or_compute(
        str(directory), facts, FEATURES.shape, compute, **arguments
    )
    return loaded, bool(calls)


def test_second_call_reads_what_the_first_computed(tmp_path):
    assert load(tmp_path)[1]
    loaded, computed = load(tmp_path, result=None)
    assert not computed
    np.testing.assert_array_equal(loaded, FEATURES)
    assert isinstance(loaded, np.memmap) and loaded.dtype == np.float16


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
        loaded, computed = load(tmp_path)
        assert computed
        np.testing.assert_array_equal(loaded, FEATURES)
        assert path.read_bytes() == whole
    (description,) = tmp_path.glob("*.json")
    description.write_text("{")
    assert load(tmp_path)[1]
    assert json.loads(description.read_text())["data"] == "abc"
    # As after a kill between the two files.
    description.unlink()
    assert load(tmp_path)[1]


def test_directory_that_cannot_be_written_costs_only_the_cache(tmp_path):
    (tmp_path / "file").write_text("")
    loaded, computed = load(tmp_path / "file" / "features")
    assert computed
    np.testing.assert_array_equal(loaded, FEATURES)


@pytest.mark.filterwarnings("ignore:overflow")
def test_features_beyond_float16_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite in float16: --weights"):
        load(tmp_path, result=np.full((3, 4), 1e5))
    assert os.listdir(tmp_path) == []


def test_features_in_a_bucket_are_kept_there(bucket_name):
    url = f"gs://{bucket_name}/features"
    features._temporary.cache_clear()
    assert load(url)[1]
    # Another machine.
    features._temporary.cache_clear()
    loaded, computed = load(url, result=None)
    assert not computed
    np.testing.assert_array_equal(loaded, FEATURES)


def test_chief_reads_and_writes_and_all_compute_what_it_lacks(tmp_path):
    asked = []

    def answer(has):
        asked.append(has)
        return False

    loaded, computed = load(tmp_path, is_chief=False, all_have=answer)
    assert loaded is None and computed
    assert os.listdir(tmp_path) == []
    load(tmp_path)
    load(tmp_path, all_have=lambda has: has)
    assert asked == [True]


def test_rows_of_a_file_equal_those_in_memory(tmp_path):
    loaded, _ = load(tmp_path)
    rows = np.array([2, 0, 2])
    np.testing.assert_array_equal(
        features.read_rows(loaded, rows), FEATURES[rows]
    )
    np.testing.assert_array_equal(
        features.read_rows(FEATURES.astype(np.float32), rows), FEATURES[rows]
    )


def test_other_weights_have_another_hash():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    first = features.weights_sha256(model)
    assert first == features.weights_sha256(model)
    model.weights[-1].assign([2.0])
    assert features.weights_sha256(model) != first


def test_epoch_order_is_a_permutation_per_epoch_and_repeats():
    order = features.epoch_order(9, 5, seed=2)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(9), (5, 1)))
    assert len({tuple(row) for row in order}) == 5
    np.testing.assert_array_equal(order, features.epoch_order(9, 5, seed=2))
    assert not np.array_equal(order, features.epoch_order(9, 5, seed=3))


def test_kept_features_equal_the_backbone_on_the_same_view(
    tiny_records, tmp_path
):
    info = input_pipeline.read_dataset_info(str(tiny_records))
    cfg = config.TrainConfig(
        data_dir=str(tiny_records),
        job_dir=str(tmp_path / "run"),
        features_dir=str(tmp_path / "features"),
        weights="none",
        image_size=IMAGE_SIZE,
        global_batch_size=8,
        seed=5,
    )
    strategy = make_strategy("one_device")
    before = signal.getsignal(signal.SIGTERM)
    with strategy.scope():
        run = Run(cfg, info, strategy)
        signal.signal(signal.SIGTERM, before)
        # The second time it is there: nothing is left to wait for.
        done, left_out = [], []
        bar = types.SimpleNamespace(
            update=done.append, leave_out=left_out.append
        )
        for _ in range(2):
            view = run.features("train", 3, run.augmentation, bar)
        assert (sum(done), left_out) == (22, [22])
    assert view.shape == (22, 1280)
    backbone = classifier.features_model(run.model)
    images = input_pipeline.make_evaluation_dataset(
        input_pipeline.split_files(str(tiny_records), info, "train"),
        shard_sizes=info.shard_sizes("train"),
        image_size=IMAGE_SIZE,
        channels=1,
        global_batch_size=1,
        per_replica_batch_size=1,
        augmentation=run.augmentation,
        seed=5,
        view=3,
    )
    for i, image in enumerate(images.as_numpy_iterator()):
        if i in (0, 7, 21):
            expected = backbone(image["inputs"], training=False)
            # float16 has eleven bits.
            np.testing.assert_allclose(
                view[i : i + 1], expected, rtol=2**-11, atol=1e-6
            )
