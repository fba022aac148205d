"""Two models on the same images."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from tests.evaluation import samples
from trainer.evaluation import comparison


@pytest.mark.parametrize(
    ("only_first", "only_other"), [(0, 0), (5, 0), (3, 11), (7, 7), (121, 59)]
)
def test_mcnemar_equals_the_binomial_sum(only_first, only_other):
    is_right = np.repeat([True, False, True], [only_first, only_other, 9])
    other = np.repeat([False, True, True], [only_first, only_other, 9])
    test = comparison.mcnemar(is_right, other)
    n, most = only_first + only_other, max(only_first, only_other)
    tail = sum(special.comb(n, k, exact=True) for k in range(most, n + 1))
    expected = min(1.0, 2 * tail / 2**n)
    assert test.p_value == pytest.approx(expected, rel=1e-10)
    assert test.only_this_right == only_first
    assert test.only_other_right == only_other


@pytest.mark.parametrize("num_classes", [2, 4])
def test_better_model_is_found_and_itself_is_not(num_classes):
    good, poor = (
        samples.random_predictions(200, num_classes, 0, 150, skill=skill)
        for skill in (3, 0.3)
    )
    if num_classes == 2:  # each decides at a threshold of its own
        poor = dataclasses.replace(poor, operating_point=0.9)
    compared = comparison.compare(good, poor, num_resamples=200)
    accuracy = compared.metrics["accuracy"]
    right, others = (p.decisions == p.labels for p in (good, poor))
    expected = right.mean() - others.mean()
    assert accuracy.difference == pytest.approx(expected)
    assert 0 < accuracy.interval[0] < expected < accuracy.interval[1]
    assert compared.mcnemar == comparison.mcnemar(right, others)
    assert compared.mcnemar.p_value < 0.001
    assert len(compared.delong) == (1 if num_classes == 2 else 4)
    assert all(test.p_value < 0.001 for test in compared.delong.values())
    same = comparison.compare(good, good, num_resamples=50)
    assert same.metrics["roc_auc"].interval == (0, 0)
    assert same.mcnemar.p_value == 1


def test_images_without_an_answer_from_either_are_left_out():
    good = samples.random_predictions(40, 2, 0)
    other = samples.random_predictions(40, 2, 1)
    good.logits[3], other.logits[5] = np.nan, np.nan
    compared = comparison.compare(good, other, num_resamples=50)
    assert (compared.num_images, compared.num_without_answer) == (38, 2)
    other.logits[:] = np.nan
    compared = comparison.compare(good, other, num_resamples=50)
    assert (compared.num_images, compared.mcnemar) == (0, None)


def test_one_class_gives_reasons():
    both = samples.random_predictions(40, 2, 0)
    sick = both.select(both.labels == 1)
    compared = comparison.compare(sick, sick, num_resamples=50)
    assert compared.metrics["roc_auc"].reason == "needs images of both classes"
    assert compared.delong == {"no_tumor": None}
    assert compared.metrics["accuracy"].difference == 0
