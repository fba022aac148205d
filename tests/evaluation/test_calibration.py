"""Temperature and operating point against brute force."""

import itertools

import numpy as np
import pytest

from tests.evaluation import samples
from trainer.evaluation import calibration


def negative_log_likelihood(labels, logits, temperature):
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(scaled).sum(axis=1))
    return np.mean(log_sum - scaled[np.arange(len(labels)), labels])


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_temperature_equals_that_of_a_fine_grid(num_classes, scale):
    made = samples.random_predictions(200, num_classes, skill=0.8)
    logits = made.logits * scale
    temperature = calibration.fit_temperature(made.labels, logits)
    best = 0.0
    for width, num_points in ((2.9, 291), (0.02, 141)):
        grid = np.linspace(best - width, best + width, num_points)
        losses = [
            negative_log_likelihood(made.labels, logits, np.exp(log_t))
            for log_t in grid
        ]
        best = grid[np.argmin(losses)]
    assert temperature == pytest.approx(np.exp(best), rel=1e-3)


@pytest.mark.parametrize("seed", range(30))
def test_temperature_is_never_worse_than_none(seed):
    made = samples.random_predictions(10 + seed, 2 + seed % 3, seed, skill=0.2)
    logits = made.logits * (1 + seed)
    temperature = calibration.fit_temperature(made.labels, logits)
    assert 0.05 <= temperature <= 20
    assert negative_log_likelihood(
        made.labels, logits, temperature
    ) <= negative_log_likelihood(made.labels, logits, 1.0)


def test_log_loss_equals_its_definition():
    made = samples.random_predictions(30, 3)
    assert calibration.log_loss(made.labels, made.logits, 1.7) == pytest.approx(
        negative_log_likelihood(made.labels, made.logits, 1.7), abs=1e-12
    )


@pytest.mark.parametrize(
    ("labels", "logits"),
    [
        # Separable.
        ([0, 1, 0, 1], [[0, -2], [0, 3], [0, -1], [0, 2.0]]),
        ([1, 1, 1], np.ones((3, 2))),
        ([], np.ones((0, 2))),
    ],
)
def test_temperature_stays_one_where_nothing_can_be_fitted(labels, logits):
    labels, logits = np.array(labels, int), np.array(logits)
    assert calibration.fit_temperature(labels, logits) == 1.0


def decision_at(is_positive, scores, threshold):
    """Sensitivity, specificity, false negatives and false positives."""
    decided = scores >= threshold
    missed = np.sum(is_positive & ~decided)
    alarms = np.sum(~is_positive & decided)
    return (
        1 - missed / is_positive.sum(),
        1 - alarms / (~is_positive).sum(),
        missed,
        alarms,
    )


def random_scores(seed):
    generator = np.random.default_rng(seed)
    is_positive = generator.random(25) < 0.4
    is_positive[:2] = (True, False)
    scores = generator.random(25) * 0.7 + 0.3 * is_positive
    if seed % 2:
        scores = np.round(scores, 1)  # ties, and scores of exactly 0 and 1
    return is_positive, scores


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("rule", "gain"),
    [
        ("youden", lambda d: d[0] + d[1]),
        ("sensitivity:0.9", lambda d: d[1] if d[0] >= 0.9 else -1),
        ("sensitivity:1", lambda d: d[1] if d[0] == 1 else -1),
        ("specificity:0.8", lambda d: d[0] if d[1] >= 0.8 - 1e-12 else -1),
        ("specificity:1", lambda d: d[0] if d[1] == 1 else -1),
        ("cost:FN=5,FP=1", lambda d: -(5 * d[2] + d[3])),
        ("cost:FP=7,FN=0.5", lambda d: -(0.5 * d[2] + 7 * d[3])),
    ],
)
def test_rule_equals_the_best_of_all_thresholds(rule, gain, seed):
    is_positive, scores = random_scores(seed)
    threshold, note = calibration.choose_operating_point(
        is_positive, scores, rule
    )
    cuts = np.concatenate([[-1.0], np.unique(scores), [2.0]])
    gains = [
        gain(decision_at(is_positive, scores, (low + high) / 2))
        for low, high in itertools.pairwise(cuts)
    ]
    chosen = gain(decision_at(is_positive, scores, threshold))
    assert chosen == pytest.approx(max(gains), abs=1e-12)
    assert note == ""


@pytest.mark.parametrize(
    ("is_positive", "scores", "rule", "threshold", "note"),
    [
        # Half-way between two scores.
        ([0, 0, 1, 1], [0.1, 0.3, 0.5, 0.9], "youden", 0.4, ""),
        ([1, 0], [0.2, 0.3], "0.35", 0.35, ""),
        ([1, 1, 1], [0, 0.5, 1], "youden", 0.5, "one class only"),
        ([0, 0, 0], [0, 0.5, 1], "youden", 0.5, "one class only"),
    ],
)
def test_threshold_and_what_is_said_of_it(
    is_positive, scores, rule, threshold, note
):
    chosen, said = calibration.choose_operating_point(
        np.array(is_positive, bool), np.array(scores), rule
    )
    assert chosen == pytest.approx(threshold)
    assert note in said and bool(note) == bool(said)


def test_specificity_one_excludes_a_negative_that_scores_one():
    is_positive = np.array([True, False, True])
    scores = np.array([0.4, 1.0, 0.6])
    threshold, _ = calibration.choose_operating_point(
        is_positive, scores, "specificity:1"
    )
    assert np.float32(threshold) > np.float32(1)


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "yuden",
        "youden:1",
        "sensitivity",
        "sensitivity:",
        "sensitivity:0",
        "sensitivity:1.2",
        "specificity:nan",
        "cost:FN=5",
        "cost:FN=5,FP=0",
        "cost:FN=inf,FP=1",
        "cost:FN=5,FP=1,TN=2",
        "cost:5,1",
        "-0.1",
        "1.1",
        "nan",
    ],
)
def test_malformed_rule_is_named_with_the_rules_there_are(rule):
    with pytest.raises(ValueError, match="--operating_point must be youden"):
        calibration.parse_rule(rule)
