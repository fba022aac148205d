"""Prediction sets: thresholds, their promise in simulated studies, figures."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.samples import random_predictions
from trainer.evaluation import prediction_sets, predictions

COVERAGE = 0.9
SHARES = (0.55, 0.3, 0.15)  # of the classes


def make_study(generator, num_patients, largest=4):
    """Patients of alike images, more rarely of the last classes."""
    sizes = generator.integers(1, largest + 1, num_patients)
    of_patient = generator.choice(3, num_patients, p=SHARES)
    shared = generator.normal(size=(num_patients, 3))
    shared[np.arange(num_patients), of_patient] += 1.5
    patients = np.repeat(np.arange(num_patients), sizes)
    logits = shared[patients] + 0.6 * generator.normal(size=(sizes.sum(), 3))
    return predictions.Predictions(
        ids=[str(i) for i in range(len(patients))],
        groups=[f"p{i}" for i in patients],
        labels=of_patient[patients].astype(np.int32),
        logits=logits,
    ).decide(("a", "b", "c"), None)


def with_sets(study, choice):
    return dataclasses.replace(study, set_thresholds=choice.thresholds)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.97])
def test_threshold_is_that_of_split_conformal_prediction(coverage):
    p = make_study(np.random.default_rng(3), 250, largest=1)
    choice = prediction_sets.choose(p, coverage)
    sets = with_sets(p, choice).prediction_sets
    for c in range(3):
        scores = np.sort(1 - p.probabilities[p.labels == c, c])
        k = int(np.ceil((len(scores) + 1) * coverage))
        expected = 1 - scores[k - 1] if k <= len(scores) else 0.0
        assert choice.thresholds[c] == pytest.approx(expected)
        assert choice.num_groups[c] == len(scores)
        # The image that the threshold is taken from is on its side.
        assert sets[p.labels == c, c].sum() >= min(k, len(scores))


@pytest.mark.parametrize("largest", [1, 4])
def test_sets_of_new_patients_hold_each_class_as_often_as_asked(largest):
    generator = np.random.default_rng(largest)
    held, intervals_hold = [], []
    for study in range(300):
        choice = prediction_sets.choose(
            make_study(generator, 120, largest), COVERAGE
        )
        judged = with_sets(make_study(generator, 200, largest), choice)
        sets = judged.prediction_sets
        held.append([sets[judged.labels == c, c].mean() for c in range(3)])
        found = prediction_sets.compute(judged, choice, study, 200)
        truth = with_sets(make_study(generator, 6000, largest), choice)
        of_a = truth.labels == 0
        sets = truth.prediction_sets[of_a]
        of_class = found.by_class["a"]
        intervals_hold.append(
            [
                low <= expected <= high
                for (low, high), expected in (
                    (of_class.size.interval, sets.sum(axis=1).mean()),
                    (of_class.coverage.interval, sets[:, 0].mean()),
                )
            ]
        )
    # 1 / (n + 1) above what is asked, at most, but for images of a patient.
    mean = np.mean(held, axis=0)
    assert (mean >= COVERAGE - 0.01).all() and (mean <= 0.97).all()
    assert (np.mean(intervals_hold, axis=0) >= 0.9).all()


@pytest.mark.parametrize(("coverage", "needed"), [(0.9, 9), (0.8, 4)])
def test_class_of_too_few_patients_is_in_every_set(coverage, needed):
    assert prediction_sets.fewest_groups(coverage) == needed
    for num_groups in (needed - 1, needed):
        # Three images each do not make up for patients.
        groups = np.repeat(np.arange(num_groups), 3)
        p = predictions.make_predictions(
            ["" for _ in groups],
            [f"g{g}" for g in groups],
            np.zeros(len(groups), int).tolist(),
            np.linspace(-3, -1, len(groups))[:, np.newaxis],
        ).decide(("well", "sick"), 1, 0.5)
        choice = prediction_sets.choose(p, coverage)
        assert choice.num_groups == (num_groups, 0)
        assert (choice.thresholds[0] > 0) == (num_groups == needed)
        assert choice.thresholds[1] == 0
        assert with_sets(p, choice).prediction_sets[:, 1].all()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_figures_are_those_of_the_sets(num_classes):
    p = random_predictions(80, num_classes, 5, 70)
    p.logits[:2] = np.nan
    thresholds = (0.45, 0.2, 0.1, 0.3)[:num_classes]
    p = dataclasses.replace(p, set_thresholds=thresholds)
    assert not p.prediction_sets[:2].any()
    choice = prediction_sets.choose(p, COVERAGE)
    found = prediction_sets.compute(p, choice, num_resamples=100)
    sizes = {name: [] for name in p.class_names}
    held = {name: [] for name in p.class_names}
    for i in range(2, 80):
        likely = p.probabilities[i] >= thresholds
        likely[p.decisions[i]] = True
        name = p.class_names[p.labels[i]]
        sizes[name].append(likely.sum())
        held[name].append(likely[p.labels[i]])
    for name, of_class in found.by_class.items():
        assert of_class.size.value == pytest.approx(np.mean(sizes[name]))
        assert of_class.coverage.value == pytest.approx(np.mean(held[name]))
        low, high = of_class.size.interval
        assert 1 <= low < of_class.size.value < high <= num_classes
    all_sizes = np.concatenate(list(sizes.values()))
    assert found.uncertain.value == pytest.approx(np.mean(all_sizes > 1))
    assert found.uncertain.n == 78
