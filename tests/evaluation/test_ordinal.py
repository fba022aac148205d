"""Classes in an order: the quadratic weighted kappa and its interval."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.evaluation.samples import random_predictions
from trainer.evaluation import metrics, ordinal, predictions

NAMES = ("mild", "none", "severe")


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("", ()), ("sorted", (0, 1, 2)), ("none,mild,severe", (1, 0, 2))],
)
def test_order_gives_ranks(text, ranks):
    assert ordinal.parse_order(text, NAMES) == ranks


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none,mild", NAMES),
        ("none,mild,mild", NAMES),
        ("none, mild,severe", NAMES),
        ("sorted", ("no_tumor", "tumor")),
    ],
)
def test_other_names_and_two_classes_are_refused(text, names):
    with pytest.raises(ValueError, match=f"has {','.join(names)}. Received"):
        ordinal.parse_order(text, names)


@pytest.mark.parametrize("ranks", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_kappa_is_that_of_scikit_learn(ranks):
    p = dataclasses.replace(random_predictions(90, 4, 2, 40), ranks=ranks)
    kappa = metrics.compute_metrics(p, 200).metrics["quadratic_kappa"]
    order = np.array(ranks)
    assert kappa.value == pytest.approx(
        sklearn_metrics.cohen_kappa_score(
            order[p.labels], order[p.decisions], weights="quadratic"
        )
    )
    low, high = kappa.interval
    assert low < kappa.value < high
    plain = dataclasses.replace(p, ranks=())
    assert "quadratic_kappa" not in metrics.compute_metrics(plain, 10).metrics


def test_kappa_of_one_class_says_why_there_is_none():
    p = dataclasses.replace(random_predictions(30, 3), ranks=(0, 1, 2))
    p = p.select((p.labels == 1) & (p.decisions == 1))
    kappa = metrics.compute_metrics(p, 10).metrics["quadratic_kappa"]
    assert kappa.value is None and "one class" in kappa.reason


def make_study(generator, num_patients):
    """Grades of patients' alike images, called a grade off now and then."""
    sizes = generator.integers(1, 4, num_patients)
    grades = generator.choice(4, num_patients, p=(0.4, 0.3, 0.2, 0.1))
    patients = np.repeat(np.arange(num_patients), sizes)
    shift = 0.5 * generator.normal(size=num_patients)[patients]
    seen = grades[patients] + shift + 0.5 * generator.normal(size=sizes.sum())
    called = np.clip(np.rint(seen), 0, 3).astype(int)
    return predictions.Predictions(
        ids=[""] * len(patients),
        groups=[str(i) for i in patients],
        labels=grades[patients],
        logits=5.0 * np.eye(4)[called],
    ).decide(("a", "b", "c", "d"), None, ranks=(0, 1, 2, 3))


@pytest.mark.parametrize("num_patients", [25, 80])
def test_interval_of_kappa_holds_the_truth(num_patients):
    generator = np.random.default_rng(0)
    everyone = make_study(generator, 50_000)
    truth = sklearn_metrics.cohen_kappa_score(
        everyone.labels, everyone.decisions, weights="quadratic"
    )
    held, widths = [], []
    for study in range(200):
        p = make_study(generator, num_patients)
        found = metrics.compute_metrics(p, 200, study).metrics
        low, high = found["quadratic_kappa"].interval
        held.append(low <= truth <= high)
        widths.append(high - low)
    assert 0.9 <= np.mean(held) <= 0.99
    assert np.mean(widths) < 2 / np.sqrt(num_patients)
