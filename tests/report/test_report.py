"""The files of an evaluation: complete, consistent, caveats first."""

import base64
import csv
import dataclasses
import html
import io
import json
import re

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.evaluation.samples import NAMES, POSITIVE, random_predictions
from tests.report.samples import (
    evaluate,
    evaluate_part,
    make_splits,
    page_of,
    page_text,
)
from tests.samples import encode, make_pixels
from trainer.data.build.audit_sentences import Sentence
from trainer.evaluation import comparison, cross_validation, subgroups
from trainer.evaluation.predictions import Predictions
from trainer.report import data_audit, page, plots, sentences

FILES = {
    "metrics.json",
    "classification_report.txt",
    "predictions.csv",
    "predictions_by_group.csv",
    "report.html",
    "model_card.md",
    "training_history.png",
    "confusion_matrix.png",
    "roc_curve.png",
    "precision_recall_curve.png",
    "calibration.png",
    "confusion_matrix_by_group.png",
    "roc_curve_by_group.png",
    "precision_recall_curve_by_group.png",
    "calibration_by_group.png",
}


def card_of(evaluation) -> str:
    return evaluation.files["model_card.md"].decode("utf-8")


def test_every_file_is_written_and_metrics_json_has_no_nan(either):
    assert set(either.files) == FILES

    def refuse(constant):
        raise AssertionError(constant)

    text = either.files["metrics.json"]
    written = json.loads(text, parse_constant=refuse)
    for name, split in either.findings.splits.items():
        for metric, figure in split.metrics.items():
            in_file = written["splits"][name]["metrics"][metric]
            assert in_file["value"] == figure.value
            assert tuple(in_file["interval"]) == figure.interval
    # What was not made has no key.
    split, is_binary = written["splits"]["test"], written["positive_class"]
    assert ("at_prevalence" in split) == bool(is_binary)
    assert ("one_vs_rest" in split) == (not is_binary)
    assert not {"baselines", "subgroups", "out_of_distribution"} & set(split)
    assert not {"cross_validation", "comparison"} & set(written)
    assert set(split["metrics"]["accuracy"]) == {
        "value",
        "interval",
        "method",
        "n_effective",
        "n",
        "n_groups",
    }


def test_values_of_the_page_and_card_are_those_of_metrics_json(either):
    text, card = page_text(either), card_of(either)
    for name, split in either.findings.splits.items():
        for metric in split.metrics.values():
            low, high = metric.interval
            shown = f"{metric.value:.3f} ({low:.3f} to {high:.3f})"
            assert shown in text
            assert name != "test" or shown in card


def test_validation_alone_chooses_temperature_and_threshold(binary):
    findings, splits = binary.findings, make_splits()
    chosen = {
        "temperature": findings.temperature,
        "operating_point": findings.operating_point,
    }
    test = dataclasses.replace(splits.pop("test"), **chosen)
    accuracy = findings.splits["test"].metrics["accuracy"].value
    expected = np.mean(test.decisions == test.labels)
    assert accuracy == pytest.approx(expected, abs=1e-12)
    alone = evaluate(splits).findings
    assert chosen.items() <= vars(alone).items()
    assert "are optimistic." in alone.caveats[0]


def test_page_asks_the_network_for_nothing(either):
    page = page_of(either)
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    sources = re.findall(r"""(?:src|href)=["'](.{5})|url\((.{5})""", page)
    assert {a or b for a, b in sources} == {"data:"}
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|iframe|object|base|form)\b", page)
    # And every picture has an alternative text.
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) >= 5
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_leaks_and_a_missing_test_split_come_first():
    folds = []
    for seed in range(3):
        splits = make_splits(40, skill=1 + seed)
        names = splits["test"].class_names
        folds.append(cross_validation.decide(splits, names, 1, "youden"))
    summary = cross_validation.summarize(folds)
    validation = make_splits()["validation"]
    evaluation = evaluate(
        {"validation": validation}, leaks=7, cross_validation=summary
    )
    first, second = evaluation.findings.caveats[:2]
    assert first.startswith("7 images share a patient or a copy")
    value = summary.pooled.metrics["roc_auc"].value
    assert "no test split" in second
    assert f"Those of the 3 folds are not: ROC AUC {value:.3f}" in second
    text, card = page_text(evaluation), card_of(evaluation)
    assert text.index(first) < text.index(second) < text.index("In short")
    assert text.index(second) < text.index(evaluation.findings.verdict[0])
    assert card.index(first) < card.index("ROC AUC")
    written = json.loads(evaluation.files["metrics.json"])
    assert written["cross_validation"]["num_folds"] == 3
    assert "Cross-validation over 3 folds" in text
    assert page_of(evaluation).count('<th scope="col">fold ') == 3


def test_every_trouble_is_a_caveat_and_no_name_becomes_markup():
    splits = make_splits(40)
    splits["test"].logits[:3] = np.nan
    splits["validation"].logits[0] = np.inf
    audit = data_audit.Audit(
        sentences=[
            Sentence("Let in (--on_leak=allow).", is_alarm=True),
            Sentence("No patient is known.", is_alarm=True),
            Sentence("60 images were read."),
        ]
    )
    guesses = {
        "nearest neighbour": np.eye(2)[splits["test"].labels],
        "majority class": np.full((40, 2), 0.5),
    }
    names = ("</script><b>x", '"|`$alert(1)$')
    evaluation = evaluate(
        splits, names, leaks=3, audit=audit, test={"baselines": guesses}
    )
    assert set(evaluation.files) == FILES
    split, caveats = evaluation.findings.split, evaluation.findings.caveats
    assert (split.num_images, split.num_without_answer) == (37, 3)
    # Leaks have a caveat of their own, with the figures without them.
    assert "share a patient or a copy" in caveats[0]
    assert not any(c.startswith("Let in") for c in caveats)
    assert any("3 of 40 images of test" in c for c in caveats)
    (unbeaten,) = [c for c in caveats if "trivial" in c]
    assert "nearest neighbour" in unbeaten
    assert caveats[-1] == "No patient is known."
    text = page_text(evaluation).split("What was found")[0]
    assert unbeaten in text and caveats[-1] in text
    page, card = page_of(evaluation), card_of(evaluation)
    assert "</script><b>x" not in page
    assert "</script><b>x" in html.unescape(page)
    assert "<b>" not in card and '"|`' not in card.replace('"\\|`', "")


@pytest.mark.parametrize(
    ("num_classes", "kept", "skill", "num_verdicts", "sentence"),
    [
        (2, (0,), 1.5, 1, "The test split has no image of tumor."),
        (2, (1,), 1.5, 1, "The test split has no image of no_tumor."),
        (2, (0, 1), np.nan, 1, "No image was judged, so nothing is known."),
        (3, (0, 1, 2), np.nan, 1, "No image was judged, so nothing is known."),
        (2, (0, 1), 50, 3, "too few or too easy to show"),
    ],
)
def test_splits_that_tell_little_give_every_file_and_say_so(
    num_classes, kept, skill, num_verdicts, sentence
):
    evaluation = evaluate_part(num_classes, kept, skill)
    assert set(evaluation.files) == FILES
    verdict, caveats = evaluation.findings.verdict, evaluation.findings.caveats
    assert len(verdict) == num_verdicts
    assert any(sentence in spoken for spoken in verdict + caveats)


def test_one_group_of_a_class_is_told_wherever_its_interval_would_stand():
    splits = make_splits(20)
    test = splits["test"]
    groups = np.where(test.labels == 1, "one", test.groups).tolist()
    splits["test"] = dataclasses.replace(test, groups=groups)
    evaluation = evaluate(splits)
    area = json.loads(evaluation.files["metrics.json"])["splits"]["test"][
        "metrics"
    ]["roc_auc"]
    assert area["interval"] is area["delong_interval"] is None
    why = (
        "interval not computed: needs 2 groups (patients or copies) of each "
        "class, and one class has 1)"
    )
    assert evaluation.findings.verdict[-1].endswith(f"(95 % {why}.")
    assert why in page_text(evaluation) and why in card_of(evaluation)


def test_galleries_show_each_outcome_the_surest_decisions_first(illustrated):
    test = illustrated.test
    ((split, indices),) = illustrated.read
    assert split == "test" and indices and 0 not in indices
    is_wrong = test.decisions != test.labels
    outcomes = [(is_wrong[i], test.labels[i] == POSITIVE) for i in indices]
    # Missed, false alarms, found, cleared.
    order = [(True, True), (True, False), (False, True), (False, False)]
    assert list(dict.fromkeys(outcomes)) == order
    assert outcomes == sorted(outcomes, key=order.index)
    for outcome in order:
        members = [
            i for i, o in zip(indices, outcomes, strict=True) if o == outcome
        ]
        sure = test.probabilities[members, test.decisions[members]]
        assert (np.diff(sure) <= 0).all()
    assert set(np.flatnonzero(is_wrong & test.is_finite)) <= set(indices)
    ((count, classes),) = illustrated.explained
    assert classes == test.decisions[indices].tolist()
    assert count == len(indices) == len(classes)
    page = page_of(illustrated.evaluation)
    assert page.count('class="heat"') == count
    assert page.count("data:image/jpeg;base64,") == 2 * count


def test_unlike_images_and_parts_are_told(illustrated):
    splits = illustrated.evaluation.findings.splits
    unlike = splits["test"].out_of_distribution
    assert (unlike.num_images, unlike.num_flagged) == (39, 1)
    assert unlike.median_score == 0.5
    page = " ".join(page_of(illustrated.evaluation).split())
    assert "1 (2.6 %) lie beyond it" in page
    assert splits["validation"].out_of_distribution is None
    # The image without an answer is of the old one.
    parts = splits["test"].subgroups["scanner"]
    assert (parts["old"].num_images, parts["new"].num_images) == (9, 30)
    assert splits["validation"].subgroups is None


def test_leaks_are_judged_apart():
    splits = make_splits(num_groups=30)
    test = splits["test"]
    train_groups = frozenset(test.groups[:20])
    # As sure of copies of training images as it is lost without them.
    is_copy = np.array([g in train_groups for g in test.groups])
    truth = np.eye(2)[test.labels]
    knows_copies = np.where(is_copy[:, np.newaxis], truth, 0.5)
    evaluation = evaluate(
        splits,
        leaks=20,
        test={"baselines": {"nearest neighbour": knows_copies}},
        train_groups=train_groups,
    )
    parts = evaluation.findings.split.subgroups[subgroups.KINSHIP]
    part = parts[subgroups.INDEPENDENT]
    assert part.num_images == sum(~is_copy) < 60
    area = sklearn_metrics.roc_auc_score(
        test.labels[~is_copy], test.probabilities[~is_copy, 1]
    )
    assert part.metrics["roc_auc"].value == pytest.approx(area)
    caveat = evaluation.findings.caveats[0]
    assert f"ROC AUC is {area:.3f}" in caveat
    assert "has a ROC AUC of 0.500 there" in caveat
    assert subgroups.LEAKED in page_text(evaluation)
    assert {
        value: part.baselines["nearest neighbour"].value
        for value, part in parts.items()
    } == {subgroups.INDEPENDENT: 0.5, subgroups.LEAKED: 1.0}


@pytest.mark.parametrize(
    ("skill", "told"), [(0.2, "more than chance"), (2.0, "no more than chance")]
)
def test_distance_of_validation_and_test_is_told(skill, told):
    splits = make_splits(300, num_groups=300, skill=2.0)
    splits["test"] = make_splits(300, num_groups=290, skill=skill)["test"]
    evaluation = evaluate(splits)
    (apart,) = [c for c in evaluation.findings.caveats if "changes by" in c]
    assert f": {told}" in apart or f", {told}" in apart
    metrics = [
        evaluation.findings.splits[split].metrics["roc_auc"]
        for split in ("validation", "test")
    ]
    change = metrics[1].value - metrics[0].value
    assert f"From {metrics[0].value:.3f} on validation" in apart
    assert f"changes by {change:+.3f} on test" in apart


@pytest.mark.parametrize("num_classes", [2, 4])
def test_better_of_two_models_is_named(num_classes):
    good, poor = (
        random_predictions(200, num_classes, 0, 150, skill=skill)
        for skill in (3, 0.3)
    )

    def said(other, name):
        names = ("GOOD", name)
        compared = comparison.compare(good, other, names, num_resamples=50)
        return " ".join(sentences.compare(compared))

    better = said(poor, "POOR")
    assert "GOOD decides better" in better and "GOOD ranks better" in better
    assert "neither decides better" in said(good, "SELF")
    poor.logits[:] = np.nan
    assert said(poor, "NONE") == "There is no image that both models answered."


def test_patients_are_judged_like_images_but_once_each():
    splits = make_splits(60, num_groups=25)
    test = splits["test"]
    truth = np.eye(2)[test.labels]
    asked = []

    def read_images(split, indices):
        asked.append((split, indices))
        return [encode(make_pixels(i, 0)) for i in indices]

    evaluation = evaluate(
        splits,
        test={"baselines": {"oracle": truth}},
        read_images=read_images,
        study_rule="noisy_or",
    )
    found = evaluation.findings.per_patient
    rows = list(
        csv.DictReader(
            io.StringIO(evaluation.files["predictions_by_group.csv"].decode())
        )
    )
    of_test = [row for row in rows if row["split"] == "test"]
    assert len(of_test) == found.splits["test"].num_images
    assert {row["id"] for row in of_test} == set(test.groups)
    calibrated = dataclasses.replace(
        test, temperature=evaluation.findings.temperature
    )
    for row in of_test:
        scores = calibrated.scores[np.array(test.groups) == row["id"]]
        expected = 1 - np.prod(1 - scores)
        assert float(row["score"]) == pytest.approx(expected)
        is_called = expected >= found.operating_point
        assert row["decision"] == NAMES[POSITIVE if is_called else 1 - POSITIVE]
    # Nobody is positive unless an image shows it: the oracle is right.
    oracle = found.splits["test"].baselines["oracle"]
    assert oracle.value == 1.0 and not oracle.beaten
    (mixed,) = [s for s in found.verdict if "several classes" in s]
    assert mixed.endswith(
        f"count as {NAMES[POSITIVE]}, for one of their images shows it."
    )
    text, card = page_text(evaluation), card_of(evaluation)
    area = found.splits["test"].metrics["roc_auc"]
    shown = f"{area.value:.3f} ({area.interval[0]:.3f} to"
    assert shown in text.split("Per patient")[1]
    assert found.verdict[0] in card and " patients with" in found.verdict[0]
    # Figures are of the decisions that the file has.
    section = page_of(evaluation).split('id="patients"')[1]
    section = section.split("</section>")[0]
    counts = [
        [
            sum(r["label"] == t and r["decision"] == d for r in of_test)
            for d in NAMES
        ]
        for t in NAMES
    ]
    drawn = plots.confusion_matrix(
        counts, NAMES, f"test, {len(of_test)} patients"
    )
    assert drawn == evaluation.files["confusion_matrix_by_group.png"]
    as_read = {
        split: Predictions(
            ids=[],
            groups=[],
            labels=np.array([NAMES.index(r["label"]) for r in of_split]),
            logits=np.log(
                [
                    [float(r[f"probability_{n}"]) for n in NAMES]
                    for r in of_split
                ]
            ),
        ).decide(NAMES, POSITIVE, found.operating_point)
        for split in ("validation", "test")
        for of_split in [[r for r in rows if r["split"] == split]]
    }
    drawn = plots.roc_curve(as_read)
    assert drawn == evaluation.files["roc_curve_by_group.png"]
    for name in FILES:
        is_here = name.endswith("_by_group.png")
        figure = base64.b64encode(evaluation.files[name]).decode()
        assert (figure in section) == is_here, name
    at_5 = found.splits["test"].at_prevalence["0.05"]
    shown = page.format_metric(at_5["positive_predictive_value"])
    assert shown in html.unescape(section).replace("\N{NO-BREAK SPACE}", " ")
    # Each patient has one picture, of one of its images.
    _, (split, indices) = asked
    chosen = [test.groups[i] for i in indices]
    assert split == "test" and len(set(chosen)) == len(chosen) > 10
    written = json.loads(evaluation.files["metrics.json"])
    assert written["per_patient"]["rule"] == "noisy_or"


def test_patients_of_an_image_each_are_not_judged_again():
    splits = {
        name: dataclasses.replace(p, groups=[str(i) for i in range(20)])
        for name, p in make_splits(20).items()
    }
    evaluation = evaluate(splits)
    assert evaluation.findings.per_patient is None
    assert "Per patient" not in page_text(evaluation)
    assert set(evaluation.files) == {n for n in FILES if "by_group" not in n}


def test_classes_in_order_are_judged_by_how_far_off_decisions_are():
    names = ("mild", "none", "severe")
    splits = make_splits(90, 3, skill=0.7)
    ranks = (1, 0, 2)
    evaluation = evaluate(splits, names, ranks=ranks)
    kappa = evaluation.findings.split.metrics["quadratic_kappa"]
    counts = np.array(evaluation.findings.split.confusion_matrix)
    far = counts[1, 2] + counts[2, 1]
    (spoken,) = [s for s in evaluation.findings.verdict if "kappa" in s]
    assert spoken.startswith(
        f"In the order none < mild < severe, {far} images of 90 called"
    )
    assert f"{kappa.value:.3f} (95 % interval" in spoken
    row = page_text(evaluation).split("Quadratic weighted kappa")[-1]
    assert f"{kappa.value:.3f} (" in row
    # The same for patients.
    found = evaluation.findings.per_patient
    assert any("kappa" in sentence for sentence in found.verdict)
    assert "kappa" not in page_text(evaluate(splits, names))


def checklist_of(evaluation):
    """What the run says to each item: cells of the last table of the card."""
    card = card_of(evaluation).split("## Checklists")[1]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in card.splitlines()
        if line.startswith("| ")
    ]
    assert {len(row) for row in rows} == {4}
    return rows[1:]


def test_card_answers_or_asks_every_item_of_the_checklists(either):
    rows = checklist_of(either)
    assert [row[1] for row in rows].count("yes") == 38
    assert {row[1] for row in rows} == {"yes", ""}
    tripod = [i.strip() for row in rows for i in row[2].split(",") if i]
    assert len(set(tripod)) == len(tripod) == 52
    assert {int(re.match(r"\d+", i)[0]) for i in tripod} == set(range(1, 28))
    assert all(row[3] for row in rows)
    said = {row[0]: row[3] for row in rows}
    split = either.findings.split
    assert f"{split.num_images} test images" in said["Sample size"]
    assert said["Ensemble"] == "None."
    # What was not measured is a question.
    for item in ("Heterogeneity, robustness, fairness", "External testing"):
        assert "Not measured" in said[item] and "**Author:**" in said[item]
    assert "no group" in said["Disjoint by"]


def test_card_claims_no_item_that_the_run_does_not_meet():
    validation = make_splits(40)["validation"]
    evaluation = evaluate({"validation": validation}, leaks=7)
    said = {row[0]: row[3] for row in checklist_of(evaluation)}
    assert said["Disjoint by"].startswith("Not disjoint: 7 images")
    assert "optimistic" in said["Internal evaluation"]
    assert "prediction sets" not in said["Output and threshold"]
    assert "Weights, temperature" in said["Choice of the final model"]
