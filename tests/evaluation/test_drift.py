"""Answers in use beside those of an evaluation: figures and their level."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from trainer.evaluation import drift
from trainer.evaluation.answers import IMAGE, Answers


def make(num_answers, seed, shift=0.0, far=0.0, num_classes=2):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_answers, num_classes))
    logits[:, 0] += shift
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    is_binary = num_classes == 2
    scores = shares[:, 0] if is_binary else shares.max(axis=1)
    decisions = np.where(scores >= 0.6, 0, 1)
    return Answers(
        IMAGE,
        tuple("abcd"[:num_classes]),
        0.6 if is_binary else None,
        scores,
        decisions if is_binary else shares.argmax(axis=1),
        generator.gamma(9, 1 / 14, num_answers) + far,
    )


def test_sizes_are_those_of_other_libraries():
    before, now = make(70, 0), make(130, 1, shift=0.8, far=0.2)
    found = drift.compare(before, now, positive_index=0)
    truth = np.repeat([0, 1], [70, 130])
    scores = np.concatenate([before.scores, now.scores])
    area = sklearn_metrics.roc_auc_score(truth, scores)
    assert found.higher.value == pytest.approx(area)
    low, high = found.higher.interval
    # As wide as the normal interval of an area by Hanley and McNeil, 1982.
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + 129 * (q1 - area**2) + 69 * (q2 - area**2)
    half = 1.96 * np.sqrt(variance / (70 * 130))
    assert low < area < high
    assert high - low == pytest.approx(2 * half, rel=0.15)
    for change, is_so in (
        (found.called, lambda a: a.decisions == 0),
        (found.flagged, lambda a: a.unlikeness > 1),
    ):
        bounds = []
        for share, answers in ((change.before, before), (change.now, now)):
            count, n = int(is_so(answers).sum()), len(answers.scores)
            assert share.value == count / n
            wilson = stats.binomtest(count, n).proportion_ci(method="wilson")
            assert share.interval == pytest.approx((wilson.low, wilson.high))
            bounds.append((count / n, wilson.low, wilson.high))
        (p, p_low, p_high), (q, q_low, q_high) = bounds
        assert change.difference.value == pytest.approx(q - p)
        # Newcombe, 1998, method 10.
        assert change.difference.interval == pytest.approx(
            (
                q - p - np.hypot(q - q_low, p_high - p),
                q - p + np.hypot(q_high - q, p - p_low),
            )
        )
    assert found.class_name == "a" and found.needed == pytest.approx(60)


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({}, set()),
        ({"shift": 1.5}, {drift.SCORES, drift.DECISIONS}),
        ({"far": 0.3}, {drift.UNLIKENESS}),
    ],
)
def test_what_has_moved_is_told_apart(changes, moved):
    found = drift.compare(make(90, 4), make(140, 5, **changes), 0)
    assert {name for name, answer in found.moved.items() if answer} == moved
    for name in moved:
        answer = found.moved[name]
        assert found.evidence[name][answer - 1] >= found.needed
        assert (found.evidence[name][: answer - 1] < found.needed).all()


def test_three_tests_together_keep_the_level():
    alarms = [
        any(drift.compare(make(60, i), make(80, 10**6 + i), 0).moved.values())
        for i in range(100)
    ]
    assert np.mean(alarms) <= drift.FALSE_ALARMS + 0.05


def test_of_many_classes_the_one_that_changed_most_is_named():
    before = make(80, 1, num_classes=4)
    now = make(120, 2, shift=1.5, num_classes=4)
    found = drift.compare(before, now)
    assert found.class_name == "a" and found.moved[drift.DECISIONS]
    assert found.called.now.value == np.mean(now.decisions == 0)


@pytest.mark.parametrize("ignorant", [0, 1])
def test_unlikeness_that_one_does_not_know_is_left_out(ignorant):
    both = [make(80, 1), make(120, 2)]
    unlikeness = both[ignorant].unlikeness.copy()
    unlikeness[10:] = np.nan
    both[ignorant] = dataclasses.replace(both[ignorant], unlikeness=unlikeness)
    found = drift.compare(*both, 0)
    assert found.flagged is None and len(found.evidence) == 2
    assert found.needed == pytest.approx(40)


@pytest.mark.parametrize(
    ("sizes", "what"), [((90, 19), "The log"), ((19, 90), "The evaluation")]
)
def test_too_few_answers_are_refused(sizes, what):
    before, now = (make(size, i) for i, size in enumerate(sizes))
    with pytest.raises(ValueError, match=f"{what} has 19 answers; 20 are need"):
        drift.compare(before, now, 0)
