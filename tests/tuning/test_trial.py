import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainer import config
from tuning import objectives, optimism, trial

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
    # The first class is the positive one; logits are of the second.
    is_positive, score = data.labels[22:] == 0, -result.logits[:, 0]
    p = 1 / (1 + np.exp(-score.astype(np.float64)))
    expected = {
        "roc_auc": sklearn_metrics.roc_auc_score(is_positive, score),
        "average_precision": sklearn_metrics.average_precision_score(
            is_positive, score
        ),
        "log_loss": sklearn_metrics.log_loss(is_positive, p),
        "accuracy": np.mean((p >= 0.5) == is_positive),
        "sensitivity": np.mean(p[is_positive] >= 0.5),
        "specificity": np.mean(p[~is_positive] < 0.5),
    }
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value, rel=1e-5), name
    assert expected["sensitivity"] != expected["specificity"]


def test_executions_are_of_other_seeds_and_their_mean_counts(data):
    result = trial.run_trial(SETTINGS, 0.0, data, [0, 1, 2], "log_loss")
    alone = [
        trial.run_trial(SETTINGS, 0.0, data, [seed], "log_loss")
        for seed in range(3)
    ]
    losses = [a.metrics["log_loss"] for a in alone]
    assert len(set(losses)) == 3
    assert result.metrics["log_loss"] == pytest.approx(np.mean(losses))
    np.testing.assert_allclose(
        result.logits, np.mean([a.logits for a in alone], 0), rtol=1e-5
    )


def test_folds_judge_every_image_once(data):
    plain = np.concatenate([data.views[0.0][0], data.features])
    even, odd = (np.flatnonzero(np.arange(52) // 2 % 2 == i) for i in (0, 1))
    folded = dataclasses.replace(
        data,
        views={0.0: [plain]},
        features=plain,
        first_judged=0,
        folds=[(even, odd), (odd, even)],
    )
    result = trial.run_trial(SETTINGS, 0.0, folded, [0], "roc_auc")
    np.testing.assert_array_equal(folded.judged, np.arange(52))
    assert result.logits.shape == (52, 1)
    by_hand = [
        folded.metrics(judged, result.logits[judged])["roc_auc"]
        for judged in (odd, even)
    ]
    assert by_hand[0] != by_hand[1]
    assert result.metrics["roc_auc"] == np.mean(by_hand)


def test_objective_without_a_value_fails_the_trial(data):
    labels = np.where(np.arange(52) < 22, data.labels, 0)
    one_class = dataclasses.replace(data, labels=labels)
    with pytest.raises(ValueError, match="roc_auc is not defined: the images"):
        trial.run_trial(SETTINGS, 0.0, one_class, [0], "roc_auc")


def test_trial_that_gets_worse_is_ended_early(data):
    rising = [{"val_loss": float(i)} for i in range(60)]
    assert [trial._goes_on(60, rising[:n]) for n in (1, 19, 21)] == [True] * 3
    assert not trial._goes_on(60, rising[:20])
    assert trial._goes_on(60, [{"val_loss": -float(i)} for i in range(20)])
    settings = {**SETTINGS, "head_epochs": 60, "head_learning_rate": 5.0}
    assert trial.run_trial(settings, 0.0, data, [0], "roc_auc").num_epochs < 60


@pytest.mark.parametrize("objective", ["roc_auc", "log_loss"])
def test_correction_takes_the_luck_out_of_the_choice(data, objective):
    """Of 200 trials that know nothing the best looks good and is not."""
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(30, 1)).astype(np.float32) for _ in range(200)]
    sign = objectives.sign(objective)
    scores = [sign * data.metrics(data.judged, z)[objective] for z in logits]
    estimate = optimism.correct(logits, data, objective)
    assert sign * estimate.value < max(scores) - 0.1
    low, high = sorted(sign * end for end in estimate.interval)
    assert low < np.mean(scores) < high


def test_correction_leaves_a_trial_that_knows_alone(data):
    labels = data.labels[22:]
    knows = (4.0 * labels - 2.0)[:, np.newaxis].astype(np.float32)
    guesses = np.zeros_like(knows)
    estimate = optimism.correct([guesses, knows], data, "roc_auc")
    assert estimate.value == 1.0
