"""Probabilities, decisions and the text of `predictions.csv`."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from tests.evaluation import samples
from trainer.evaluation import predict, predictions


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_one_logit_gives_sigmoid_probabilities():
    logits = np.array([[-3.0], [0.0], [2.0]], np.float32)
    made = predict.make_predictions(list("abc"), list("abc"), [0, 1, 1], logits)
    expected = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    np.testing.assert_allclose(made.probabilities[:, 1], expected, atol=1e-15)
    np.testing.assert_allclose(made.probabilities.sum(axis=1), 1, atol=1e-15)


def test_temperature_divides_the_logits():
    made = samples.random_predictions(num_classes=3)
    hot = dataclasses.replace(made, temperature=2.0)
    exponentials = np.exp(made.logits.astype(np.float64) / 2)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(hot.probabilities, expected, atol=1e-14)


def test_csv_round_trip_keeps_nine_digits():
    made = samples.random_predictions(40, num_classes=4)
    names = ("a", "b", "c", "d")
    rows = read_csv(
        predictions.predictions_csv({"test": made}, names, None, None)
    )
    values = [[float(row[f"probability_{n}"]) for n in names] for row in rows]
    np.testing.assert_allclose(values, made.probabilities, rtol=5.1e-9)
    assert [row["id"] for row in rows] == made.ids
    assert [row["group"] for row in rows] == made.groups
    assert [names.index(row["label"]) for row in rows] == made.labels.tolist()


@pytest.mark.parametrize(
    "name", ['a,"b"', "two\nlines", "ein Wörtchen", "", "=1+1", "<b>&amp;"]
)
def test_odd_class_names_and_ids_survive_the_csv(name):
    made = samples.random_predictions(4)
    made = dataclasses.replace(made, ids=[f"{name}/{i}" for i in range(4)])
    rows = read_csv(
        predictions.predictions_csv({"test": made}, ("other", name), 1, 0.5)
    )
    assert [row["id"] for row in rows] == made.ids
    assert [row["label"] for row in rows] == ["other", name] * 2
    assert f"probability_{name}" in rows[0]


@pytest.mark.parametrize("positive_index", [0, 1])
def test_decision_follows_the_operating_point_not_the_maximum(positive_index):
    made = samples.random_predictions(50)
    names = ("no", "yes")
    rows = read_csv(
        predictions.predictions_csv({"test": made}, names, positive_index, 0.2)
    )
    positive, negative = names[positive_index], names[1 - positive_index]
    for row in rows:
        score = float(row["score"])
        assert score == float(row[f"probability_{positive}"])
        assert row["decision"] == (positive if score >= 0.2 else negative)
        assert row["predicted"] == (positive if score > 0.5 else negative)
    assert any(row["decision"] != row["predicted"] for row in rows)


def test_score_at_the_operating_point_is_positive():
    made = predict.make_predictions(["a"], ["a"], [1], np.zeros((1, 1)))
    assert made.decided(1, 0.5).tolist() == [1]


def test_image_without_a_finite_answer_has_no_decision():
    made = samples.random_predictions(5)
    made.logits[2, 1] = np.nan
    rows = read_csv(
        predictions.predictions_csv({"test": made}, ("no", "yes"), 1, 0.5)
    )
    assert [bool(row["decision"]) for row in rows] == [1, 1, 0, 1, 1]
    assert rows[2]["score"] == "nan"
    assert made.select(made.is_finite).ids == made.ids[:2] + made.ids[3:]
