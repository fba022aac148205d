import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainer import config
from tuning import optimism, trial

SETTINGS = {
    **dataclasses.asdict(config.TrainConfig(data_dir="d", job_dir="j")),
    "head_epochs": 6,
    "global_batch_size": 8,
    "hidden_units": [4],
    "dropout": 0.0,
    "weight_decay": 0.0,
}


def test_trial_is_judged_by_scikit_learns_metrics(data):
    result = trial.run_trial(SETTINGS, 1.0, data, [0], "roc_auc")
    labels, logits = data.labels[28:], result.logits[:, 0]
    auc = sklearn_metrics.roc_auc_score(labels, logits)
    assert result.metrics["roc_auc"] == pytest.approx(auc)
    assert result.executions == [result.metrics["roc_auc"]]
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert result.metrics["log_loss"] == pytest.approx(
        sklearn_metrics.log_loss(labels, p), rel=1e-5
    )
    assert result.metrics["accuracy"] == pytest.approx(
        np.mean((p >= 0.5) == labels)
    )


def test_executions_are_of_other_seeds_and_their_mean_counts(data):
    result = trial.run_trial(SETTINGS, 0.0, data, [0, 1, 2], "log_loss")
    alone = [
        trial.run_trial(SETTINGS, 0.0, data, [seed], "log_loss")
        for seed in range(3)
    ]
    assert len(set(result.executions)) == 3
    assert result.executions == [one.executions[0] for one in alone]
    assert result.metrics["log_loss"] == pytest.approx(
        np.mean(result.executions)
    )
    np.testing.assert_allclose(
        result.logits, np.mean([one.logits for one in alone], 0), rtol=1e-5
    )


def test_folds_judge_every_image_once(data):
    plain = np.concatenate([data.views[0.0][0], data.features])
    even, odd = (np.flatnonzero(np.arange(40) // 2 % 2 == i) for i in (0, 1))
    folded = dataclasses.replace(
        data,
        views={0.0: plain[np.newaxis]},
        features=plain,
        first_judged=0,
        folds=[(even, odd), (odd, even)],
    )
    result = trial.run_trial(SETTINGS, 0.0, folded, [0], "roc_auc")
    np.testing.assert_array_equal(folded.judged, np.arange(40))
    assert result.logits.shape == (40, 1)
    by_hand = [
        sklearn_metrics.roc_auc_score(
            folded.labels[judged], result.logits[judged, 0]
        )
        for judged in (odd, even)
    ]
    np.testing.assert_allclose(result.executions, by_hand)


def test_objective_without_a_value_fails_the_trial(data):
    one_class = dataclasses.replace(
        data, labels=np.where(np.arange(40) < 28, data.labels, 0)
    )
    with pytest.raises(ValueError, match="roc_auc is not defined: the images"):
        trial.run_trial(SETTINGS, 0.0, one_class, [0], "roc_auc")


def test_trial_that_gets_worse_is_ended_early(data):
    settings = {**SETTINGS, "head_epochs": 60, "head_learning_rate": 5.0}
    probation = trial._Probation(60)
    rising = [{"val_loss": float(i)} for i in range(60)]
    assert [probation(rising[:n]) for n in (1, 19, 21)] == [True] * 3
    assert not probation(rising[:20])
    falling = [{"val_loss": -float(i)} for i in range(20)]
    assert probation(falling)
    assert trial.run_trial(settings, 0.0, data, [0], "roc_auc").num_epochs < 60


def test_metric_names_are_those_of_the_report():
    names = trial.metric_names(2)
    assert {"roc_auc", "log_loss", "accuracy", "sensitivity"} <= set(names)
    assert trial.direction("log_loss") == "min"
    assert trial.direction("roc_auc") == "max"


def test_correction_takes_the_luck_out_of_the_choice(data):
    """Of 200 trials that know nothing the best looks good and is not."""
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(12, 1)).astype(np.float32) for _ in range(200)]
    labels = data.labels[28:]
    best = max(
        sklearn_metrics.roc_auc_score(labels, one[:, 0]) for one in logits
    )
    assert best > 0.9
    estimate = optimism.correct(logits, data, "roc_auc")
    assert estimate.num_trials == 200
    assert estimate.value < best - 0.15
    assert estimate.interval[0] < 0.5 < estimate.interval[1]


def test_correction_leaves_a_trial_that_knows_alone(data):
    labels = data.labels[28:]
    knows = (4.0 * labels - 2.0)[:, np.newaxis].astype(np.float32)
    guesses = np.zeros_like(knows)
    estimate = optimism.correct([guesses, knows], data, "roc_auc")
    assert estimate.value == 1.0
