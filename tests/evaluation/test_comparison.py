"""Two models on the same images."""

import numpy as np
import pytest
from scipy import special

from tests.evaluation import samples
from trainer.evaluation import comparison

NAMES = ("no_tumor", "tumor")


@pytest.mark.parametrize(
    ("only_first", "only_other"), [(0, 0), (5, 0), (3, 11), (7, 7), (121, 59)]
)
def test_mcnemar_equals_the_binomial_sum(only_first, only_other):
    is_right = np.repeat([True, False, True], [only_first, only_other, 9])
    other = np.repeat([False, True, True], [only_first, only_other, 9])
    found = comparison.mcnemar(is_right, other)
    n, most = only_first + only_other, max(only_first, only_other)
    tail = sum(special.comb(n, k, exact=True) for k in range(most, n + 1))
    expected = min(1.0, 2 * tail / 2**n)
    assert found["p_value"] == pytest.approx(expected, rel=1e-10)
    assert found["only_this_right"] == only_first
    assert found["only_other_right"] == only_other


@pytest.mark.parametrize("num_classes", [2, 4])
def test_better_model_is_found_and_itself_is_not(num_classes):
    names = NAMES if num_classes == 2 else ("a", "b", "c", "d")
    positive = 1 if num_classes == 2 else None
    point = 0.5 if num_classes == 2 else None
    good = samples.random_predictions(200, num_classes, 0, 150, skill=3)
    poor = samples.random_predictions(200, num_classes, 0, 150, skill=0.3)
    found = comparison.compare(
        good, poor, names, positive, (point, point), num_resamples=200
    )
    low, high = found["metrics"]["accuracy"]["interval"]
    decided = [p.decided(positive, point) for p in (good, poor)]
    expected = np.mean(decided[0] == good.labels)
    expected -= np.mean(decided[1] == good.labels)
    assert found["metrics"]["accuracy"]["difference"] == pytest.approx(expected)
    assert 0 < low < expected < high
    assert found["mcnemar"]["p_value"] < 0.001
    assert all(test["p_value"] < 0.001 for test in found["delong"].values())
    said = " ".join(comparison.verdict(found, "GOOD", "POOR"))
    assert "GOOD decides better" in said and "GOOD ranks better" in said
    same = comparison.compare(
        good, good, names, positive, (point, point), num_resamples=50
    )
    assert same["metrics"]["roc_auc"]["interval"] == [0, 0]
    assert "neither decides better" in " ".join(
        comparison.verdict(same, "GOOD", "SELF")
    )


def test_images_without_an_answer_from_either_are_left_out():
    good = samples.random_predictions(40, 2, 0)
    other = samples.random_predictions(40, 2, 1)
    good.logits[3], other.logits[5] = np.nan, np.nan
    found = comparison.compare(good, other, NAMES, 1, (0.5, 0.5), 50)
    assert found["num_images"] == 38
    assert found["num_without_answer"] == 2
    other.logits[:] = np.nan
    found = comparison.compare(good, other, NAMES, 1, (0.5, 0.5), 50)
    assert comparison.verdict(found, "A", "B") == [
        "There is no image that both models answered."
    ]


def test_one_class_gives_reasons():
    both = samples.random_predictions(40, 2, 0)
    sick = both.select(both.labels == 1)
    found = comparison.compare(sick, sick, NAMES, 1, (0.5, 0.5), 50)
    assert (
        found["metrics"]["roc_auc"]["reason"] == "needs images of both classes"
    )
    assert found["delong"] == {"tumor": None}
    assert found["metrics"]["accuracy"]["difference"] == 0
