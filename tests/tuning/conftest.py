"""Records of tiny images, and a sweep on features that are made up."""

import numpy as np
import pytest

from tests.samples import write_records
from trainer import config
from trainer.data import input_pipeline
from tuning import search_space, trial, tuner


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """22 images to train on and 30 to judge on; the first class is positive."""
    directory = tmp_path_factory.mktemp("records")
    counts = {"train": 22, "validation": 30, "test": 7}
    write_records(directory, counts, positive_class="no_tumor")
    return directory


@pytest.fixture(scope="session")
def data(data_dir):
    """Those images with features that tell the classes apart."""
    info = input_pipeline.read_dataset_info(str(data_dir))
    index = input_pipeline.read_index(str(data_dir), info)
    splits = index["train"], index["validation"]
    labels = np.array([x for s in splits for x in s.labels], np.int32)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(52, 1280)).astype(np.float16)
    features[:, :8] += np.float16(2.0) * labels[:, np.newaxis]
    return trial.SweepData(
        views={
            0.0: [features[:22]],
            1.0: [features[:22], features[:22] + np.float16(0.1)],
        },
        features=features[22:],
        first_judged=22,
        ids=[i for s in splits for i in s.ids],
        groups=[g for s in splits for g in s.groups],
        labels=labels,
        folds=[(np.arange(22), np.arange(22, 52))],
        class_names=info.class_names,
        positive_index=info.positive_index,
    )


@pytest.fixture
def sweep(data_dir, data, tmp_path, monkeypatch):
    """Configuration and options of a sweep of linear heads on `data`."""
    space = dict(search_space.SPACE)
    for name, values in space.items():
        if isinstance(values, search_space.Choice) and name != "optimizer":
            space[name] = search_space.Choice(values.values[:1])
    space["augmentation_strength"] = search_space.Choice((0.0, 1.0))
    cfg = config.TrainConfig(
        data_dir=str(data_dir),
        job_dir=str(tmp_path / "job"),
        weights="a.h5",
        strategy="one_device",
        head_epochs=4,
        fine_tune_epochs=5,
        fine_tune_learning_rate=2e-4,
    )
    options = tuner.SweepOptions("random", 4, "roc_auc", 1, 0, space)
    monkeypatch.setattr(tuner.sweep_data, "load", lambda *arguments: data)
    return cfg, options
