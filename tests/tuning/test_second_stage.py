import dataclasses
import types

import numpy as np
import pytest

from tests.conftest import write_records
from trainer import config
from trainer.data import input_pipeline
from trainer.evaluation.predictions import make_predictions
from tuning import search_space, second_stage, trial, tuner

SETTINGS = {
    "hidden_units": [8],
    "dropout": 0.25,
    "head_epochs": 3,
    "head_learning_rate": 1e-3,
}
# How well a run tells the classes apart, by the blocks it fine-tunes.
QUALITY = {0: 0.2, 1: 3.0, 2: 0.6}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep whose runs are quick, and what they were asked to do."""
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records", {"train": 12, "validation": 40})
    cfg = config.TrainConfig(
        data_dir=str(tmp_path / "records"),
        job_dir=str(tmp_path / "sweep"),
        weights="a.h5",
        fine_tune_epochs=5,
        fine_tune_learning_rate=2e-4,
    )
    asked = []

    def train_and_predict(run_cfg, info, strategy):
        asked.append(run_cfg)
        index = input_pipeline.read_index(run_cfg.data_dir, info)["validation"]
        blocks = run_cfg.fine_tune_epochs and run_cfg.fine_tune_blocks
        (tmp_path / run_cfg.job_dir / "checkpoints").mkdir()
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(len(index.labels), 1)) + QUALITY[blocks] * (
            np.array(index.labels)[:, np.newaxis] - 0.5
        )
        return types.SimpleNamespace(
            predictions={
                "validation": make_predictions(
                    index.ids,
                    index.groups,
                    index.labels,
                    logits.astype(np.float32),
                )
            }
        )

    monkeypatch.setattr(
        second_stage.train, "train_and_predict", train_and_predict
    )
    return cfg, asked


def try_depths(cfg, depths=(0, 1, 2), trial_name="07", objective="roc_auc"):
    return second_stage.try_depths(
        cfg, None, depths, trial_name, SETTINGS, objective
    )


def test_each_depth_is_the_run_of_the_best_trial(sweep):
    cfg, asked = sweep
    found = try_depths(cfg)
    assert [depth.blocks for depth in found] == [0, 1, 2]
    for run_cfg in asked:
        assert (run_cfg.hidden_units, run_cfg.dropout) == ((8,), 0.25)
        assert run_cfg.head_epochs == 3
    assert asked[0].fine_tune_epochs == 0
    for run_cfg, blocks in zip(asked[1:], (1, 2), strict=True):
        assert run_cfg.fine_tune_blocks == blocks
        assert run_cfg.fine_tune_epochs == 5
        assert run_cfg.fine_tune_learning_rate == 2e-4
    scores = {depth.blocks: depth.score for depth in found}
    assert scores[0] < scores[2] < scores[1]
    assert second_stage.choose(found, "roc_auc").blocks == 1


def test_finished_depth_is_kept_for_its_trial_only(sweep):
    cfg, asked = sweep
    before = try_depths(cfg, (0, 1))
    after = try_depths(cfg, (0, 1, 2))
    assert len(asked) == 3
    assert [d.score for d in before] == [d.score for d in after[:2]]
    np.testing.assert_array_equal(before[1].logits, after[1].logits)
    try_depths(cfg, (1,), trial_name="08")
    assert len(asked) == 4


def test_result_of_other_flags_is_refused(sweep):
    cfg, _ = sweep
    try_depths(cfg, (1,))
    other = dataclasses.replace(cfg, fine_tune_epochs=6)
    with pytest.raises(ValueError, match="--fine_tune_epochs=5"):
        try_depths(other, (1,))


def test_low_objective_chooses_the_lowest(sweep):
    cfg, _ = sweep
    found = try_depths(cfg, objective="log_loss")
    lowest = min(found, key=lambda depth: depth.metrics["log_loss"])
    assert second_stage.choose(found, "log_loss") is lowest


def test_verdict_gives_every_depth_and_the_honest_estimate(sweep):
    cfg, _ = sweep
    found = try_depths(cfg)
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    index = input_pipeline.read_index(cfg.data_dir, info)
    parts = [index["train"], index["validation"]]
    data = trial.SweepData(
        views={},
        features=np.zeros((40, 1)),
        first_judged=12,
        ids=[i for part in parts for i in part.ids],
        groups=[g for part in parts for g in part.groups],
        labels=np.array([x for part in parts for x in part.labels]),
        # Of folds: the second stage is judged on validation all the same.
        folds=[(np.arange(26), np.arange(26, 52))],
        class_names=info.class_names,
        positive_index=info.positive_index,
    )
    options = tuner.SweepOptions(
        "random", 4, "roc_auc", 1, 2, dict(search_space.SPACE)
    )
    sentence = second_stage.make_verdict(found, data, options)
    for depth in found:
        assert f"{depth.blocks}: {depth.score:.3f}" in sentence
    assert "1 is best; chosen on some of the groups" in sentence
    estimate = float(sentence.rsplit(" ", 1)[1].rstrip("."))
    assert abs(estimate - found[1].score) < 0.1
