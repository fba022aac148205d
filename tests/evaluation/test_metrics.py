"""Metrics against scikit-learn, SciPy, published formulas and brute force."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tests.evaluation import samples
from trainer.evaluation import metrics, predictions

NUM_RESAMPLES = 50
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def compute(p, num_resamples=NUM_RESAMPLES, **options):
    """Metrics; every figure is a finite number, or has a reason."""
    split = metrics.compute_metrics(p, num_resamples=num_resamples, **options)
    for name, metric in all_metrics(split):
        if metric.value is None or metric.interval is None:
            assert metric.reason, name
        if metric.value is not None:
            assert math.isfinite(metric.value), name
        if metric.interval is not None:
            low, high = metric.interval
            assert low <= high, name
            assert metric.method, name
    return split


def all_metrics(split):
    parts = [split.metrics]
    parts += (split.one_vs_rest or split.at_prevalence or {}).values()
    return itertools.chain.from_iterable(part.items() for part in parts)


@st.composite
def weighted_predictions(draw):
    """Predictions with ties, perhaps without some class, and weights."""
    num_classes = draw(st.integers(2, 4))
    count = st.integers(1, 25)
    labels = draw(
        arrays(np.int32, count, elements=st.integers(0, num_classes - 1))
    )
    shape = (len(labels), num_classes)
    logits = draw(arrays(np.float32, shape, elements=st.integers(-3, 3)))
    weights = draw(arrays(int, len(labels), elements=st.integers(0, 3)))
    names = samples.class_names(num_classes)
    ids = [str(i) for i in range(len(labels))]
    positive = draw(st.integers(0, 1)) if num_classes == 2 else None
    threshold = draw(st.sampled_from([0.3, 0.5, 0.8]))
    p = predictions.make_predictions(ids, ids, labels, logits / 2)
    return p.decide(names, positive, threshold), weights


def scikit_learns(p, images):
    """Part and name -> value, where scikit-learn has one."""
    m, classes = sklearn_metrics, list(range(len(p.class_names)))
    truth, scores = p.labels[images], p.probabilities[images]
    positive = p.positive_index
    decided = scores.argmax(axis=1)
    one_hot = np.eye(len(classes))[truth]
    of_classes = dict(enumerate(p.class_names))
    if positive is not None:
        reached = scores[:, positive] >= p.operating_point
        decided = np.where(reached, positive, 1 - positive)
        of_classes = {positive: ""}
    present = np.unique(truth)
    recalls = m.recall_score(truth, decided, labels=present, average=None)
    found = {
        ("", "brier"): np.sum((scores - one_hot) ** 2)
        / (len(truth) if positive is None else 2 * len(truth)),
        ("", "accuracy"): m.accuracy_score(truth, decided),
        ("", "balanced_accuracy"): recalls.mean(),
        ("", "macro_f1"): m.f1_score(
            truth, decided, labels=classes, average="macro", zero_division=0
        ),
        ("", "log_loss"): m.log_loss(truth, scores, labels=classes),
    }
    if len(present) > 1:
        correlation = m.matthews_corrcoef(truth, decided)
        found["", "matthews_correlation"] = correlation
    for c, part in of_classes.items():
        is_class, called, score = truth == c, decided == c, scores[:, c]
        found[part, "f1"] = m.f1_score(is_class, called, zero_division=0)
        for name, given_, hit in (
            ("sensitivity", is_class, called),
            ("specificity", ~is_class, ~called),
            ("positive_predictive_value", called, is_class),
            ("negative_predictive_value", ~called, ~is_class),
        ):
            if given_.any():
                found[part, name] = m.recall_score(given_, hit)
        if is_class.any():
            precision = m.average_precision_score(is_class, score)
            found[part, "average_precision"] = precision
            if not is_class.all():
                found[part, "roc_auc"] = m.roc_auc_score(is_class, score)
    if positive is None:
        areas = [found.get((name, "roc_auc")) for name in p.class_names]
        if None not in areas:
            found["", "roc_auc"] = np.mean(areas)
    return found


@settings(max_examples=150)
@given(weighted_predictions())
def test_metrics_equal_scikit_learns_on_repeated_images(made):
    p, weights = made
    found = metrics.make_statistics(p)(
        np.stack([weights, np.ones_like(weights)])
    )
    finite = {
        key: values[0]
        for key, values in found.items()
        if np.isfinite(values[0]) and key[1] != "expected_calibration_error"
    }
    images = np.repeat(np.arange(len(weights)), weights)
    expected = scikit_learns(p, images) if len(images) else {}
    assert finite == pytest.approx(expected, abs=1e-12)
    # What has no value has a reason, and every interval lies in its range.
    split = compute(p, prevalences=() if p.positive_index is None else (0.1,))
    for name, metric in all_metrics(split):
        if metric.interval is not None and name != "log_loss":
            low, high = metric.interval
            least = -1 if name == "matthews_correlation" else 0
            most = 2 if name == "brier" and p.positive_index is None else 1
            assert least <= low <= high <= most
            if name not in ("brier", "expected_calibration_error"):
                assert low - 1e-12 <= metric.value <= high + 1e-12


def test_calibration_error_equals_a_loop_over_bins():
    generator = np.random.default_rng(0)
    confidence = generator.random(300)
    confidence[:2] = (0.0, 1.0)
    correct = generator.random(300) < confidence**2
    expected = 0
    for b in range(10):
        low, high = b / 10, (b + 1) / 10
        inside = (confidence >= low) & (confidence < high)
        inside |= (b == 9) & (confidence == 1)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += gap * inside.mean()
    once = np.ones((1, 300))
    error = metrics.expected_calibration_error(correct, confidence, once)
    assert error == pytest.approx([expected], abs=1e-12)


def test_interval_equals_a_loop_over_resamples():
    p = samples.random_predictions(50, num_groups=20)
    loss = compute(p, seed=5).metrics["log_loss"]
    names, group_of = np.unique(p.groups, return_inverse=True)
    draws = np.random.default_rng(5).integers(
        0, len(names), (NUM_RESAMPLES, len(names))
    )
    losses = []
    for draw in draws:
        images = np.concatenate([np.flatnonzero(group_of == g) for g in draw])
        losses.append(
            sklearn_metrics.log_loss(
                p.labels[images], p.probabilities[images, 1], labels=(0, 1)
            )
        )
    # As much wider than a normal interval as Student's, by the class that has
    # fewer groups: -2.1448 is its 2.5 % quantile with 14 degrees of freedom.
    fewest = min(
        len({g for g, t in zip(p.groups, p.labels, strict=True) if t == c})
        for c in (0, 1)
    )
    assert fewest == 15
    tail = 100 * stats.norm.cdf(-2.144786687917804 * (15 / 14) ** 0.5)
    assert 1 < tail < 2.5
    expected = np.percentile(losses, [tail, 100 - tail])
    assert loss.interval == pytest.approx(expected, abs=1e-12)


def test_order_of_images_changes_no_figure():
    p = samples.random_predictions(40, num_groups=15)
    shuffled = p.select(np.random.default_rng(1).permutation(40))
    for a, b in zip(
        compute(p).metrics.values(),
        compute(shuffled).metrics.values(),
        strict=True,
    ):
        assert a.value == pytest.approx(b.value, abs=1e-12)
        assert a.interval == pytest.approx(b.interval, abs=1e-12)


def test_predictive_values_follow_bayes():
    # A textbook example: sensitivity 0.9, specificity 0.91, prevalence 1 %:
    # of 1000, 9 of 10 found and 89.1 of 990 alarms.
    assert metrics.predictive_values(0.9, 0.91, 0.01) == {
        "positive_predictive_value": pytest.approx(9 / (9 + 89.1)),
        "negative_predictive_value": pytest.approx(900.9 / (900.9 + 1)),
    }


def test_predictive_values_at_the_splits_own_prevalence_are_its_own():
    split = compute(samples.random_predictions(80), prevalences=(0.5,))
    for name, metric in split.at_prevalence["0.5"].items():
        own = split.metrics[name].value
        assert metric.value == pytest.approx(own, abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_reasons(label):
    p = samples.random_predictions(20)
    p = dataclasses.replace(p, labels=np.full(20, label, np.int32))
    split = compute(p, prevalences=(0.1,))
    assert split.metrics["roc_auc"].reason == "needs images of both classes"
    assert split.metrics["matthews_correlation"].value is None
    missing = "sensitivity" if label else "specificity"
    assert split.metrics[missing].value is None
    assert split.metrics["accuracy"].value is not None


def test_one_group_gives_values_without_intervals():
    p = samples.random_predictions(20)
    split = compute(dataclasses.replace(p, groups=["one"] * 20))
    assert split.num_groups == 1
    for name, metric in split.metrics.items():
        assert metric.value is not None, name
        assert metric.interval is None, name


@pytest.mark.parametrize(
    ("num_groups", "without"),
    [
        (1, set("abc")),
        (2, set("bc")),
        (3, set("c")),
        (5, set()),
    ],
)
def test_few_groups_of_a_class_give_the_intervals_that_they_can(
    num_groups, without
):
    p = samples.random_predictions(60)
    few = np.flatnonzero(p.labels == 1)[:9]
    p = p.select(np.union1d(few, np.flatnonzero(p.labels == 0)))
    groups = [f"few_{i % num_groups}" for i in range(9)] + [
        *map(str, range(30))
    ]
    order = np.argsort(-p.labels, kind="stable")
    p = dataclasses.replace(p.select(order), groups=groups)
    split = compute(p, 200, prevalences=(0.1,))
    kinds = {
        "a": ("roc_auc", "balanced_accuracy", "matthews_correlation"),
        "b": ("average_precision", "f1", "macro_f1"),
        "c": ("log_loss", "brier", "expected_calibration_error"),
    }
    for kind, names in kinds.items():
        for name in names:
            metric = split.metrics[name]
            assert (metric.interval is None) == (kind in without), name
            if kind in without:
                needed = {"a": 2, "b": 3, "c": 5}[kind]
                assert f"needs {needed} groups" in metric.reason
                assert metric.reason.endswith(f"one class has {num_groups}")
    assert (split.metrics["specificity"].interval is None) == (num_groups == 1)
    assert split.metrics["sensitivity"].interval is not None
    assert split.metrics["roc_auc"].delong_interval is None  # nine images
    for metric in split.at_prevalence["0.1"].values():
        assert metric.interval is None


def test_few_groups_of_one_class_cost_another_no_interval():
    p = samples.random_predictions(90, 3)
    p = p.select((p.labels < 2) | (np.arange(90) == 2))
    split = compute(p, 200)
    areas = [part["roc_auc"] for part in split.one_vs_rest.values()]
    assert [area.interval is None for area in areas] == [False, False, True]
    assert split.metrics["roc_auc"].interval is None


@pytest.mark.parametrize("num_classes", [2, 4])
def test_no_image_gives_reasons(num_classes):
    p = samples.random_predictions(4, num_classes)
    p.logits[:] = np.nan
    split = compute(p)
    assert (split.num_images, split.num_without_answer) == (0, 4)
    assert all(metric.value is None for _, metric in all_metrics(split))
