"""An evaluation as a reference, and what is said of answers beside it."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.samples import NAMES, POSITIVE
from tests.report.samples import evaluate, make_splits
from trainer.evaluation import drift
from trainer.evaluation.answers import IMAGE, STUDY, Answers
from trainer.report import drift_report


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job whose test images are of 34 patients, six of them not scored."""
    scores = np.random.default_rng(0).gamma(9, 1 / 14, 90)
    scores[::15] = np.nan
    evaluation = evaluate(
        make_splits(90, num_groups=40), test={"unlikeness": scores}
    )
    directory = tmp_path_factory.mktemp("job")
    (directory / "evaluation").mkdir()
    for name, content in evaluation.files.items():
        (directory / "evaluation" / name).write_bytes(content)
    return directory, evaluation.findings


def rows_of(job, name):
    with open(job[0] / "evaluation" / name, newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


@pytest.mark.parametrize("where", ["", "evaluation"])
def test_reference_of_images_has_one_of_each_group(job, where):
    found = drift_report.read_reference(str(job[0] / where), IMAGE)
    rows, answers = rows_of(job, "predictions.csv"), found.answers
    assert found.split == "test" and found.positive_index == POSITIVE
    assert found.has_several
    assert answers.threshold == job[1].operating_point
    groups = {row["group"] for row in rows}
    assert len(answers.scores) == len(groups) < 90
    of_score = {float(row["score"]): row for row in rows}
    chosen = [of_score[score] for score in answers.scores]
    assert {row["group"] for row in chosen} == groups
    for row, decision, far in zip(
        chosen, answers.decisions, answers.unlikeness, strict=True
    ):
        assert row["decision"] == NAMES[decision]
        known = float(row["out_of_distribution"] or "nan")
        np.testing.assert_equal(far, known)
    # Not always the first of a group.
    firsts = {row["group"]: row for row in reversed(rows)}
    assert any(row is not firsts[row["group"]] for row in chosen)


def test_reference_of_studies_is_that_of_the_patients(job):
    found = drift_report.read_reference(str(job[0]), STUDY)
    rows = rows_of(job, "predictions_by_group.csv")
    assert found.answers.scores.tolist() == [float(r["score"]) for r in rows]
    assert found.answers.threshold == job[1].per_patient.operating_point
    images = rows_of(job, "predictions.csv")
    for row, far in zip(rows, found.answers.unlikeness, strict=True):
        of_group = [
            float(image["out_of_distribution"] or "nan")
            for image in images
            if image["group"] == row["id"]
        ]
        np.testing.assert_equal(far, np.median(of_group))


def make_used(reference, num_answers=120, score=0.0, far=0.0):
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, len(reference.answers.scores), num_answers)
    scores = np.clip(reference.answers.scores[drawn] + score, 0, 1)
    unlikeness = generator.gamma(9, 1 / 14, num_answers) + far
    is_called = scores >= reference.answers.threshold
    decisions = np.where(is_called, POSITIVE, 1 - POSITIVE)
    return Answers(
        IMAGE, NAMES, reference.answers.threshold, scores, decisions, unlikeness
    )


@pytest.mark.parametrize(
    ("moved", "said", "unsaid"),
    [
        ({}, ["No sign is no proof"], ["case mix", "other"]),
        (
            {"score": 0.5},
            ["Scores: have moved, as answer", "another case mix alone"],
            ["another device"],
        ),
        (
            {"score": 0.5, "far": 0.4},
            ["training images: has moved, as answer", "another device"],
            ["case mix alone"],
        ),
    ],
)
def test_sentences_say_what_has_moved_and_what_follows(
    job, moved, said, unsaid
):
    reference = drift_report.read_reference(str(job[0]), IMAGE)
    used = make_used(reference, **moved)
    found = drift.compare(reference.answers, used, POSITIVE)
    spoken = drift_report.describe(found, reference, 120)
    text = " ".join(spoken)
    assert text.startswith("120 answers, in their order, beside those for 3")
    for part in said:
        assert part in text
    for part in unsaid:
        assert part not in text.split("no sign")[-1]
    now, difference = found.called.now, found.called.difference
    assert (
        f"called {NAMES[POSITIVE]} is a share of {now.value:.3f} (95 % "
        f"interval {now.interval[0]:.3f} to {now.interval[1]:.3f})"
    ) in text
    assert f"a difference of {difference.value:+.3f} (95 % inter" in text
    # The evaluation had several images of a patient.
    assert "--by=patient" in spoken[-1]
    figure = Image.open(io.BytesIO(drift_report.draw(found, reference, used)))
    assert figure.format == "PNG" and figure.width > 3 * figure.height


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("cat", "dog")}, "log is of a model of cat, dog, and"),
        ({"threshold": 0.123}, "decides from 0.123 on, and --reference of one"),
        ({"threshold": None}, "decides from None on"),
    ],
)
def test_answers_of_another_model_are_refused(job, changes, message):
    answers = drift_report.read_reference(str(job[0]), IMAGE).answers
    served = dataclasses.replace(
        answers, threshold=float(np.float32(answers.threshold))
    )
    drift_report.check_model(answers, served)
    with pytest.raises(ValueError, match=message):
        drift_report.check_model(
            answers, dataclasses.replace(served, **changes)
        )


def test_directory_without_evaluation_is_refused(job, tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.json does not exist: give"):
        drift_report.read_reference(str(tmp_path), IMAGE)
    found = json.loads((job[0] / "evaluation/metrics.json").read_text())
    del found["per_patient"]
    for name in ("metrics.json", "predictions.csv"):
        content = (job[0] / "evaluation" / name).read_text()
        (tmp_path / name).write_text(content)
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="judged no patients: log answers"):
        drift_report.read_reference(str(tmp_path), STUDY)
    (tmp_path / "predictions.csv").write_text("split,decision\ntest,x\n")
    with pytest.raises(ValueError, match="holds a damaged evaluation"):
        drift_report.read_reference(str(tmp_path), IMAGE)
