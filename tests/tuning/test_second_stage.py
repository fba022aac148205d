import dataclasses
import json
import os
import types

import numpy as np
import pytest

from trainer.data import input_pipeline
from trainer.evaluation.predictions import make_predictions
from tuning import second_stage, tuner

SETTINGS = {
    "hidden_units": [8],
    "dropout": 0.25,
    "head_epochs": 3,
    "head_learning_rate": 1e-3,
}
# How well a run tells the classes apart, by the blocks it fine-tunes.
QUALITY = {0: 0.2, 1: 3.0, 2: 0.6}


@pytest.fixture
def runs(monkeypatch):
    """The configurations of the runs, which are quick."""
    configurations = []

    def train_and_predict(cfg, info, strategy):
        configurations.append(cfg)
        index = input_pipeline.read_index(cfg.data_dir, info)["validation"]
        blocks = cfg.fine_tune_epochs and cfg.fine_tune_blocks
        os.mkdir(f"{cfg.job_dir}/checkpoints")
        labels = np.array(index.labels)[:, np.newaxis]
        noise = np.random.default_rng(0).normal(size=labels.shape)
        logits = (noise + QUALITY[blocks] * (labels - 0.5)).astype(np.float32)
        predictions = make_predictions(
            index.ids, index.groups, index.labels, logits
        )
        return types.SimpleNamespace(predictions={"validation": predictions})

    monkeypatch.setattr(
        second_stage.train, "train_and_predict", train_and_predict
    )
    return configurations


def try_depths(cfg, depths=(0, 1, 2), trial_name="07"):
    options = tuner.SweepOptions("random", 4, "roc_auc", 1, 0, {}, depths)
    return second_stage.try_depths(cfg, None, options, trial_name, SETTINGS)


def test_each_depth_is_the_run_of_the_best_trial(sweep, runs):
    depths = try_depths(sweep[0])
    assert [depth.blocks for depth in depths] == [0, 1, 2]
    for cfg in runs:
        assert (cfg.hidden_units, cfg.dropout) == ((8,), 0.25)
        assert cfg.head_epochs == 3
        assert not os.path.exists(f"{cfg.job_dir}/checkpoints")
    assert runs[0].fine_tune_epochs == 0
    for cfg, blocks in zip(runs[1:], (1, 2), strict=True):
        assert cfg.fine_tune_blocks == blocks
        assert (cfg.fine_tune_epochs, cfg.fine_tune_learning_rate) == (5, 2e-4)
    scores = {depth.blocks: depth.score for depth in depths}
    assert scores[0] < scores[2] < scores[1]


def test_finished_depth_is_kept_for_its_trial_only(sweep, runs):
    cfg, _ = sweep
    before = try_depths(cfg, (0, 1))
    after = try_depths(cfg, (0, 1, 2))
    assert len(runs) == 3
    assert [d.score for d in before] == [d.score for d in after[:2]]
    np.testing.assert_array_equal(before[1].logits, after[1].logits)
    try_depths(cfg, (1,), trial_name="08")
    assert len(runs) == 4


def test_result_of_other_flags_is_refused(sweep, runs):
    cfg, _ = sweep
    try_depths(cfg, (1,))
    other = dataclasses.replace(cfg, fine_tune_epochs=6)
    with pytest.raises(ValueError, match="--fine_tune_epochs=5"):
        try_depths(other, (1,))


def test_verdict_gives_every_depth_and_the_honest_estimate(sweep, runs, data):
    depths = try_depths(sweep[0])
    # Of folds: the second stage is judged on validation all the same.
    data = dataclasses.replace(data, folds=[(np.arange(26), np.arange(26, 52))])
    sentence = second_stage.make_verdict(depths, data, "roc_auc")
    for depth in depths:
        assert f"{depth.blocks}: {depth.score:.3f}" in sentence
    assert "1 is best; chosen on some of the groups" in sentence
    estimate = float(sentence.rsplit(" ", 1)[1].rstrip("."))
    assert abs(estimate - depths[1].score) < 0.1


@pytest.mark.parametrize(
    ("depths", "objective"), [((0, 1, 2), "log_loss"), ((0,), "roc_auc")]
)
def test_best_depth_is_added_to_the_result(
    sweep, runs, tmp_path, depths, objective
):
    cfg, options = sweep
    changes = {"max_trials": 2, "depths": depths, "objective": objective}
    tuner.run(cfg, dataclasses.replace(options, **changes))
    best = json.loads((tmp_path / "job" / tuner.BEST_FILE).read_text())
    assert best["fine_tune_epochs"] == (5 if 1 in depths else 0)
    assert best.get("fine_tune_blocks") == (1 if 1 in depths else None)
    page = (tmp_path / "job/sweep.html").read_text()
    assert "how deep to fine-tune" in page and "blocks fine-tuned (0:" in page
