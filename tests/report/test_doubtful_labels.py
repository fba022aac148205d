"""Labels that the folds' models contradict: told, shown and written."""

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.report.samples import evaluate, make_splits, page_of, page_text
from tests.samples import encode, make_pixels
from trainer.evaluation import label_doubts
from trainer.report import doubtful_labels
from trainer.storage import csv_text


@pytest.fixture(scope="module", params=[(2, 2.5), (4, 1.2)])
def doubted(request):
    """Predictions of folds, those with a wrong label, and their report."""
    num_classes, skill = request.param
    splits = make_splits(50, num_classes, skill=skill)
    of_folds = make_splits(90, num_classes, skill=5)["validation"]
    wrong = [4, 17, 30]
    for i in wrong:
        of_folds.labels[i] = (of_folds.labels[i] + 1) % num_classes
        # Sure, and not alike: the later the less.
        of_folds.logits[i] *= 3 - i / 20
    asked = []

    def read_by_id(ids):
        asked.append(ids)
        return {name: encode(make_pixels(int(name[6:-4]), 0)) for name in ids}

    evaluation = evaluate(
        splits,
        splits["test"].class_names,
        out_of_fold=of_folds,
        read_by_id=read_by_id,
    )
    return of_folds, wrong, evaluation, asked


def test_file_has_label_and_suggestion_the_most_doubtful_first(doubted):
    of_folds, wrong, evaluation, _ = doubted
    text = evaluation.files["doubtful_labels.csv"].decode()
    rows = csv_text.read(text)
    assert tuple(rows[0]) == doubtful_labels.COLUMNS
    assert {f"image_{i}.png" for i in wrong} <= {row["id"] for row in rows[:5]}
    names = of_folds.class_names
    matched = label_doubts.match_shares(of_folds.labels, of_folds.probabilities)
    margins = []
    for rank, row in enumerate(rows, start=1):
        i = of_folds.ids.index(row["id"])
        assert row["rank"] == str(rank)
        assert row["given_label"] == names[of_folds.labels[i]]
        assert row["label"] == names[matched[i].argmax()]
        assert row["group"] == of_folds.groups[i]
        shares = dict(zip(names, matched[i], strict=True))
        assert float(row["probability_label"]) == pytest.approx(
            shares[row["label"]]
        )
        given = float(row["probability_given_label"])
        assert given == pytest.approx(shares[row["given_label"]])
        margins.append(given - float(row["probability_label"]))
    assert margins == sorted(margins) and margins[-1] < 0


def test_page_says_how_many_and_shows_them(doubted):
    _, _, evaluation, asked = doubted
    rows = csv_text.read(evaluation.files["doubtful_labels.csv"].decode())
    found = json.loads(evaluation.files["metrics.json"])["doubtful_labels"]
    assert found["share"]["value"] == len(rows) / 90
    low, high = found["share"]["interval"]
    text = " ".join(page_text(evaluation).split())
    section = text.split("Doubtful labels ")[1]
    assert section.startswith(
        f"The models of the folds contradict the labels of {len(rows)} of 90 "
        f"images that they had not seen: a share of {len(rows) / 90:.3f} (95 % "
        f"interval {low:.3f} to {high:.3f})."
    )
    first = rows[0]
    shown = 100 * float(first["probability_label"])
    caption = f"{first['label']} at {shown:.1f} %"
    label = f"labelled {first['given_label']} {first['id']}"
    assert f"{caption}, {label}" in section
    # Those of the list, and no others.
    assert asked[-1] == [row["id"] for row in rows[:24]]
    html = page_of(evaluation).split('id="doubts"')[1].split("</section>")[0]
    assert html.count("<img ") == len(rows[:24])
    encoded = html.split("base64,")[1].split('"')[0]
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    expected = make_pixels(int(first["id"][6:-4]), 0)
    assert picture.size == expected.shape[1::-1]


def test_report_without_folds_or_doubts_has_no_gallery():
    splits = make_splits(30)
    assert "Doubtful labels" not in page_text(evaluate(splits))
    sure = dataclasses.replace(
        splits["test"], logits=9 * np.eye(2)[splits["test"].labels]
    )
    evaluation = evaluate(splits, out_of_fold=sure)
    text = page_text(evaluation)
    assert "contradict the labels of 0 of 30 images" in text
    assert "--corrections" not in text
    rows = csv_text.read(evaluation.files["doubtful_labels.csv"].decode())
    assert rows == []
