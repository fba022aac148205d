"""Groups as patients: combined, labelled and decided by validation's groups."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.evaluation.samples import random_predictions
from trainer.evaluation import metrics, studies
from trainer.evaluation.predictions import Predictions

POSITIVE = np.array([0.2, 0.9, 0.5, 0.6])
EXPECTED = {
    "mean": 2.2 / 4,
    "max": 0.9,
    "top_k:3": 2.0 / 3,
    "top_k:9": 2.2 / 4,
    "noisy_or": 1 - 0.8 * 0.1 * 0.5 * 0.4,
}


def make(scores, labels, groups, positive_index=0):
    """Predictions of two classes, of which the first is positive."""
    scores = np.asarray(scores, np.float64)
    pair = np.stack([scores, 1 - scores], axis=1)
    if positive_index == 1:
        pair = pair[:, ::-1]
    with np.errstate(invalid="ignore"):
        return Predictions(
            ids=[f"{i}.png" for i in range(len(scores))],
            groups=groups,
            labels=np.array(labels, np.int32),
            logits=np.log(pair),
        ).decide(("sick", "well"), positive_index, 0.5)


@pytest.mark.parametrize("rule", EXPECTED)
@pytest.mark.parametrize("positive_index", [0, 1])
def test_rule_gives_the_score_of_the_positive_class(rule, positive_index):
    p = make(POSITIVE, [1, 1, 1, 1], ["a"] * 4, positive_index)
    grouped = studies.by_group(p, rule, 0.6)
    assert grouped.scores == pytest.approx([EXPECTED[rule]])
    assert grouped.probabilities.sum() == pytest.approx(1)
    is_called = grouped.decisions[0] == positive_index
    assert is_called == (EXPECTED[rule] >= 0.6)
    # And one image is its own patient, whatever the rule.
    alone = studies.by_group(p.select(np.array([1])), rule)
    assert alone.scores == pytest.approx([0.9])


def test_group_is_positive_if_one_of_its_images_is():
    p = make(
        [0.2, np.nan, 0.4, 0.9, 0.3, np.nan, 0.1],
        [1, 0, 1, 0, 1, 1, 1],
        ["b", "b", "a", "c", "a", "d", "b"],
    )
    grouped = studies.by_group(p, "max", 0.35)
    assert grouped.ids == grouped.groups == ["b", "a", "c", "d"]
    assert grouped.labels.tolist() == [0, 1, 0, 1]
    # What was not answered is left out; d has nothing else.
    assert grouped.scores[:3] == pytest.approx([0.2, 0.4, 0.9])
    assert grouped.is_finite.tolist() == [True, True, True, False]
    assert studies.num_mixed(p) == 1
    # b is called well, a and c sick: the images that say so most.
    assert studies.clearest(p, grouped)[:3].tolist() == [6, 2, 3]


def test_of_more_classes_the_mean_and_the_most_frequent_label_count():
    p = random_predictions(60, 3, 1, 17)
    grouped = studies.by_group(p, "mean")
    for i, name in enumerate(grouped.ids):
        members = np.array(p.groups) == name
        mean = p.probabilities[members].mean(axis=0)
        assert grouped.probabilities[i] == pytest.approx(mean)
        assert grouped.decisions[i] == mean.argmax()
        counts = np.bincount(p.labels[members], minlength=3)
        assert counts[grouped.labels[i]] == counts.max()


@pytest.mark.parametrize(
    ("rule", "num_classes", "message"),
    [
        ("median", 2, "must be mean, max, top_k:3 .* Received: 'median'"),
        ("top_k:0", 2, "Received: 'top_k:0'"),
        ("top_k", 2, "Received: 'top_k'"),
        ("mean:3", 2, "Received: 'mean:3'"),
        ("noisy_or", 3, "there are 3 classes: give --study_rule=mean"),
    ],
)
def test_other_rules_are_refused(rule, num_classes, message):
    with pytest.raises(ValueError, match=message):
        studies.parse_rule(rule, num_classes)


def test_figures_and_operating_point_are_those_of_patients():
    generator = np.random.default_rng(0)
    groups = [f"p{g}" for g in generator.integers(0, 45, 150)]
    sick = {g: int(g[1:]) % 3 == 0 for g in groups}
    labels = [0 if sick[g] else 1 for g in groups]
    scores = 1 / (1 + np.exp(-generator.normal(1.0 - 2 * np.array(labels))))
    p = make(scores, labels, groups)
    choice = studies.choose(p, "max", "sensitivity:0.9")
    split = metrics.compute_metrics(
        studies.by_group(p, "max", choice.operating_point), num_resamples=50
    )
    names = sorted(set(groups))
    best = [
        max(s for s, g in zip(scores, groups, strict=True) if g == n)
        for n in names
    ]
    truth = np.array([sick[n] for n in names])
    called = np.array(best) >= choice.operating_point
    assert split.num_images == split.num_groups == len(names)
    assert split.metrics["roc_auc"].value == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, best)
    )
    sensitivity = split.metrics["sensitivity"]
    assert sensitivity.value == pytest.approx(called[truth].mean())
    assert sensitivity.value >= 0.9
    assert sensitivity.n == sensitivity.n_effective == truth.sum()
    low, high = sensitivity.interval
    assert low < sensitivity.value < high
