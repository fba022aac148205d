"""The text of `predictions.csv` and of the classification report."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation import samples
from trainer.report import tables
from trainer.storage import csv_text


def rows_of(made, **changes):
    made = dataclasses.replace(made, **changes)
    text = tables.predictions_csv({"test": made})
    return csv_text.read(text)


def test_csv_round_trip_keeps_nine_digits():
    made = samples.random_predictions(40, num_classes=4)
    rows, names = rows_of(made), made.class_names
    values = [[float(row[f"probability_{n}"]) for n in names] for row in rows]
    np.testing.assert_allclose(values, made.probabilities, rtol=5.1e-9)
    assert [row["id"] for row in rows] == made.ids
    assert [row["group"] for row in rows] == made.groups
    assert [names.index(row["label"]) for row in rows] == made.labels.tolist()


@pytest.mark.parametrize(
    "name", ['a,"b"', "two\nlines", "ein Wörtchen", "", "=1+1", "<b>&amp;"]
)
def test_odd_class_names_and_ids_survive_the_csv(name):
    ids = [f"{name}/{i}" for i in range(4)]
    rows = rows_of(
        samples.random_predictions(4), ids=ids, class_names=("other", name)
    )
    assert [row["id"] for row in rows] == ids
    assert [row["label"] for row in rows] == ["other", name] * 2
    assert f"probability_{name}" in rows[0]


@pytest.mark.parametrize("positive_index", [0, 1])
def test_decision_follows_the_operating_point_not_the_maximum(positive_index):
    rows = rows_of(
        samples.random_predictions(50),
        positive_index=positive_index,
        operating_point=0.2,
    )
    positive = samples.NAMES[positive_index]
    negative = samples.NAMES[1 - positive_index]
    for row in rows:
        score = float(row["score"])
        assert score == float(row[f"probability_{positive}"])
        assert row["decision"] == (positive if score >= 0.2 else negative)
        assert row["predicted"] == (positive if score > 0.5 else negative)
    assert any(row["decision"] != row["predicted"] for row in rows)


def test_image_without_a_finite_answer_has_no_decision():
    made = samples.random_predictions(5)
    made.logits[2, 1] = np.nan
    rows = rows_of(made)
    assert [bool(row["decision"]) for row in rows] == [1, 1, 0, 1, 1]
    assert rows[2]["score"] == "nan" and not rows[2]["predicted"]


def test_classification_report_names_every_class_and_split():
    p = samples.random_predictions(3, 3)
    nothing = p.select(p.labels > 2)
    text = tables.classification_report({"test": p, "validation": nothing})
    assert all(name in text for name in (*p.class_names, "validation", "no im"))
