"""Figures decode, show something, and survive splits with little in them."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tests.evaluation import samples
from trainer.report import plots


def assert_drawn(png: bytes):
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    assert min(image.size) > 200
    pixels = np.asarray(image.convert("L"))
    assert pixels.min() < 100 and pixels.max() == 255
    assert 0.001 < np.mean(pixels < 250) < 0.9


def draw_all(predictions, class_names, positive_index):
    operating_point = None if positive_index is None else 0.3
    k = len(class_names)
    shown = list(predictions.values())[-1]
    counts = np.zeros((k, k), int)
    np.add.at(
        counts,
        (shown.labels, shown.decided(positive_index, operating_point)),
        1,
    )
    return [
        plots.confusion_matrix(counts.tolist(), class_names, "test"),
        plots.roc_curve(
            predictions, class_names, positive_index, operating_point
        ),
        plots.precision_recall_curve(predictions, class_names, positive_index),
        plots.calibration(predictions, positive_index),
    ]


def make_splits(num_images, num_classes=2):
    return {
        split: samples.random_predictions(num_images, num_classes, seed)
        for seed, split in enumerate(("validation", "test"))
    }


@pytest.mark.parametrize("num_images", [1, 3, 60])
def test_two_classes_are_drawn(num_images):
    for png in draw_all(make_splits(num_images), ("no", "yes"), 1):
        assert_drawn(png)


@pytest.mark.parametrize("num_classes", [3, 4, 24])
def test_many_classes_are_drawn(num_classes):
    names = tuple(f"class number {c}" for c in range(num_classes))
    for png in draw_all(make_splits(60, num_classes), names, None):
        assert_drawn(png)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_drawn(label):
    splits = {
        split: dataclasses.replace(p, labels=np.full(20, label, np.int32))
        for split, p in make_splits(20).items()
    }
    for png in draw_all(splits, ("no", "yes"), 1):
        assert_drawn(png)


@pytest.mark.parametrize(("num_classes", "positive"), [(2, 1), (3, None)])
def test_empty_split_is_drawn(num_classes, positive):
    splits = {
        split: p.select(np.zeros(8, bool))
        for split, p in make_splits(8, num_classes).items()
    }
    names = ("a", "b", "c")[:num_classes]
    for png in draw_all(splits, names, positive):
        assert_drawn(png)


def test_names_with_dollar_signs_are_no_formulas():
    names = (
        "$\\frac{",
        "a name that is much too long for an axis",
    )
    for png in draw_all(make_splits(20), names, 1):
        assert_drawn(png)


def test_same_input_gives_the_same_bytes():
    splits = make_splits(30)
    assert draw_all(splits, ("no", "yes"), 1) == draw_all(
        splits, ("no", "yes"), 1
    )


@pytest.mark.parametrize("num_rows", [0, 1, 7])
def test_history_of_any_length_is_drawn(num_rows):
    assert_drawn(plots.training_history(samples.HISTORY[:num_rows]))
