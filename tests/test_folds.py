"""Each fold is trained once, whatever interrupts."""

import csv
import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

from tests import quick
from tests.samples import make_strategy, write_backbone, write_records
from trainer import config, folds, pipeline, train
from trainer.data import input_pipeline, preprocessing
from trainer.storage import csv_text
from trainer.training import distribution

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    """Configurations of short runs on a data set of 24 + 12 + 8 images."""
    directory = tmp_path_factory.mktemp("folds")
    (directory / "records").mkdir()
    write_records(
        directory / "records", {"train": 24, "validation": 12, "test": 8}
    )
    write_backbone(directory / "backbone.weights.h5", quick.FEW_KINDS)

    def make(num_folds, **settings):
        defaults = config.TrainConfig(
            data_dir=str(directory / "records"),
            job_dir=str(directory / "run"),
            weights=str(directory / "backbone.weights.h5"),
            image_size=32,
            global_batch_size=12,
            head_epochs=2,
            feature_views=1,
            fine_tune_epochs=0,
            num_folds=num_folds,
        )
        return dataclasses.replace(defaults, **settings)

    with quick.few_kinds():
        yield make


def train_folds(cfg):
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    strategy = make_strategy("one_device")
    return folds.train_folds(cfg, info, strategy)


def test_lost_fold_is_trained_again_to_the_same_bits(make_config):
    cfg = make_config(2)
    whole = train_folds(cfg)
    tested = [i for fold in whole for i in fold.predictions["test"].ids]
    # Those of train and validation, each once, and none of test.
    assert len(tested) == len(set(tested)) == 36
    assert not any("/test_" in image_id for image_id in tested)
    folds_dir = pathlib.Path(cfg.job_dir) / "folds"
    assert sorted(p.name for p in folds_dir.iterdir()) == ["1-of-2", "2-of-2"]
    assert [p.name for p in sorted(folds_dir.glob("*/*"))] == [
        folds.FOLD_FILE
    ] * 2
    first = folds_dir / "1-of-2" / folds.FOLD_FILE
    before = first.stat().st_mtime_ns
    shutil.rmtree(folds_dir / "2-of-2")
    again = train_folds(cfg)
    assert first.stat().st_mtime_ns == before
    for fold, same in zip(whole, again, strict=True):
        for split in ("validation", "test"):
            one, other = fold.predictions[split], same.predictions[split]
            assert one.ids == other.ids
            np.testing.assert_array_equal(one.logits, other.logits)


def test_mean_of_the_folds_is_judged_exported_and_kept(
    make_config, tmp_path, monkeypatch
):
    # All blocks are exported, and explained.
    monkeypatch.setattr(
        keras.applications, "EfficientNetB0", quick.build_backbone
    )
    write_backbone(tmp_path / "backbone.weights.h5")
    cfg = make_config(
        2,
        ensemble=True,
        weights=str(tmp_path / "backbone.weights.h5"),
        job_dir=str(tmp_path / "run"),
    )
    version_dir = pathlib.Path(pipeline.run(cfg))
    assert json.loads((version_dir / "blessing.json").read_text())["blessed"]

    with open(tmp_path / "run/evaluation/predictions.csv") as file:
        rows = list(csv.DictReader(file))
    by_split = {
        split: [row for row in rows if row["split"] == split]
        for split in ("validation", "test")
    }
    # Validation is what the folds left out; of test, the mean was taken.
    assert {row["id"] for row in by_split["validation"]} == {
        image_id
        for fold in train_folds(cfg)
        for image_id in fold.predictions["test"].ids
    }
    # Doubts are of the same images, by what the folds said of them.
    said, doubted = (
        csv_text.read((tmp_path / "run/evaluation" / name).read_text())
        for name in ("cross_validation.csv", "doubtful_labels.csv")
    )
    said = {row["id"]: row for row in said}
    for row in doubted:
        label, given = row["label"], row["given_label"]
        assert said[row["id"]]["label"] == given != label
    share = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())[
        "doubtful_labels"
    ]["share"]
    assert share["n"] == 36 and share["value"] == len(doubted) / 36
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    files = input_pipeline.split_files(cfg.data_dir, info, "test")
    images = [
        preprocessing.prepare_image(image, cfg.image_size, info.channels)
        for image in input_pipeline.iterate_encoded(files)
    ]
    mean = keras.models.load_model(tmp_path / "run" / pipeline.MODEL_FILE)
    logits = mean(np.stack(images), training=False).numpy()[:, 0]
    members = [layer for layer in mean.layers if "member" in layer.name]
    assert len(members) == 2
    alone = members[0](np.stack(images), training=False).numpy()[:, 0]
    assert np.abs(logits - alone).max() > 1e-4
    facts = json.loads((version_dir / "manifest.json").read_text())
    probabilities = 1 / (1 + np.exp(-logits / facts["temperature"]))
    np.testing.assert_allclose(
        [float(row["probability_tumor"]) for row in by_split["test"]],
        probabilities,
        atol=1e-5,
    )


def test_damaged_member_is_named(make_config):
    cfg = make_config(2)
    cfg = dataclasses.replace(cfg, job_dir=f"{cfg.job_dir}_mean", ensemble=True)
    weights = [fold.weights for fold in train_folds(cfg)]
    for fold, same in zip(train_folds(cfg), weights, strict=True):
        for one, other in zip(fold.weights, same, strict=True):
            np.testing.assert_array_equal(one, other)
    member = pathlib.Path(cfg.job_dir) / "folds/2-of-2" / folds.MEMBER_FILE
    member.write_bytes(member.read_bytes()[:-100])
    with pytest.raises(ValueError, match="2-of-2, and the fold is trained"):
        train_folds(cfg)


def test_worker_with_a_disk_of_its_own_makes_the_records(
    make_config, monkeypatch
):
    """As where the job directory is in a bucket; the chief is elsewhere."""
    cfg = make_config(2)
    cfg = dataclasses.replace(cfg, job_dir=f"{cfg.job_dir}_worker")
    monkeypatch.setattr(distribution, "is_chief", lambda strategy: False)
    trained = []

    def train_and_predict(fold_cfg, info, strategy):
        trained.append(info.fingerprint)
        assert input_pipeline.read_index(fold_cfg.data_dir, info)
        return train.Trained(None, [], {"test": info.fingerprint})

    monkeypatch.setattr(train, "train_and_predict", train_and_predict)
    found = train_folds(cfg)
    assert [fold.predictions["test"] for fold in found] == trained
    assert len(set(trained)) == 2
    assert not list(pathlib.Path(cfg.job_dir).rglob("*.tfrecord"))


def test_more_folds_than_groups_are_refused_before_training(make_config):
    with pytest.raises(ValueError, match="--num_folds=30 needs as many groups"):
        train_folds(make_config(30))
