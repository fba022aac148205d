"""The files of an evaluation: complete, consistent, caveats first."""

import dataclasses
import html
import json
import re

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.evaluation.samples import random_predictions
from tests.report.samples import evaluate, make_splits, page_of, page_text
from tests.samples import encode, make_pixels
from trainer.data.build.audit_sentences import Sentence
from trainer.evaluation import comparison, cross_validation, subgroups
from trainer.report import data_audit, sentences

FILES = {
    "metrics.json",
    "classification_report.txt",
    "predictions.csv",
    "report.html",
    "model_card.md",
    "training_history.png",
    "confusion_matrix.png",
    "roc_curve.png",
    "precision_recall_curve.png",
    "calibration.png",
}


def card_of(evaluation) -> str:
    return evaluation.files["model_card.md"].decode("utf-8")


@pytest.fixture(scope="module")
def binary():
    return evaluate(make_splits())


@pytest.fixture(scope="module", params=[2, 4])
def either(request, binary):
    """A report of two classes, and one of four."""
    if request.param == 2:
        return binary
    names = ("glioma", "meningioma", "none", "pituitary")
    return evaluate(make_splits(num_classes=4), names)


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
        "bootstrap_interval",
    }


def test_values_of_the_page_and_card_are_those_of_metrics_json(either):
    text, card = page_text(either), card_of(either)
    for name, split in either.findings.splits.items():
        for metric in split.metrics.values():
            low, high = metric.interval
            shown = f"{metric.value:.3f} ({low:.3f} to {high:.3f})"
            assert shown in text
            assert name != "test" or shown in card


def test_metrics_use_temperature_and_threshold_of_validation(binary):
    findings = binary.findings
    test = dataclasses.replace(
        random_predictions(60, 2, 1, 40), temperature=findings.temperature
    )
    decided = test.probabilities[:, 1] >= findings.operating_point
    expected = np.mean(decided == (test.labels == 1))
    accuracy = findings.splits["test"].metrics["accuracy"]
    assert accuracy.value == pytest.approx(expected, abs=1e-12)


def test_test_split_chooses_nothing(binary):
    other = make_splits() | {"test": random_predictions(30, 2, 77)}
    findings = evaluate(other).findings
    assert findings.temperature == binary.findings.temperature
    assert findings.operating_point == binary.findings.operating_point


def test_page_asks_the_network_for_nothing(either):
    page = page_of(either)
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    sources = re.findall(r"""(?:src|href)=["'](.{5})|url\((.{5})""", page)
    assert {a or b for a, b in sources} == {"data:"}
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|iframe|object|base|form)\b", page)


def test_every_picture_has_an_alternative_text(binary):
    pictures = re.findall(r"<img [^>]*>", page_of(binary))
    assert len(pictures) >= 5
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_leaks_and_a_missing_test_split_come_first():
    validation = make_splits()["validation"]
    evaluation = evaluate({"validation": validation}, leaks=7)
    first, second = evaluation.findings.caveats[:2]
    assert first.startswith("7 images share a patient or a copy")
    assert "optimistic" in second
    text, card = page_text(evaluation), card_of(evaluation)
    assert text.index(first) < text.index(second) < text.index("In short")
    assert text.index(second) < text.index(evaluation.findings.verdict[0])
    assert card.index(first) < card.index("ROC AUC")


def test_alarms_of_the_audit_come_before_the_figures():
    audit = data_audit.Audit(
        sentences=[
            Sentence("Let in (--on_leak=allow).", is_alarm=True),
            Sentence("No patient is known.", is_alarm=True),
            Sentence("60 images were read."),
        ]
    )
    evaluation = evaluate(make_splits(), leaks=3, audit=audit)
    caveats = evaluation.findings.caveats
    # Leaks have a caveat of their own, with the figures without them.
    assert "share a patient or a copy" in caveats[0]
    assert caveats[-1] == "No patient is known."
    assert not any(c.startswith("Let in") for c in caveats)
    text = page_text(evaluation).split("What was found")[0]
    assert "No patient is known." in text


def test_unbeaten_baseline_is_a_caveat():
    splits = make_splits()
    truth = np.eye(2)[splits["test"].labels]
    evaluation = evaluate(
        splits,
        test={
            "baselines": {
                "nearest neighbour": truth,
                "majority class": np.full((60, 2), 0.5),
            }
        },
    )
    (caveat,) = [c for c in evaluation.findings.caveats if "trivial" in c]
    assert "nearest neighbour" in caveat
    assert caveat in page_text(evaluation)


def test_images_without_an_answer_are_left_out_and_said():
    splits = make_splits(40)
    splits["test"].logits[:3] = np.nan
    splits["validation"].logits[0] = np.inf
    evaluation = evaluate(splits)
    split = evaluation.findings.split
    assert (split.num_images, split.num_without_answer) == (37, 3)
    caveats = evaluation.findings.caveats
    assert any("3 of 40 images of test" in c for c in caveats)
    assert set(evaluation.files) == FILES


@pytest.mark.parametrize("num_classes", [2, 3])
def test_no_answer_at_all_still_gives_every_file(num_classes):
    splits = make_splits(9, num_classes)
    for p in splits.values():
        p.logits[:] = np.nan
    evaluation = evaluate(splits, splits["test"].class_names)
    assert set(evaluation.files) == FILES
    assert evaluation.findings.verdict == [
        "No image was judged, so nothing is known."
    ]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_in_test_still_gives_every_file(label):
    splits = make_splits(20)
    test = splits["test"]
    splits["test"] = test.select(test.labels == label)
    evaluation = evaluate(splits)
    assert set(evaluation.files) == FILES
    assert any("has no image of" in c for c in evaluation.findings.caveats)


def test_flawless_result_is_called_too_easy():
    findings = evaluate(make_splits(40, skill=50)).findings
    assert any("width zero" in caveat for caveat in findings.caveats)


def test_class_names_cannot_become_markup():
    names = ("</script><b>x", '"|`$alert(1)$')
    evaluation = evaluate(make_splits(), names)
    assert "</script><b>x" not in page_of(evaluation)
    assert "</script><b>x" in html.unescape(page_of(evaluation))
    assert "<b>" not in card_of(evaluation)
    assert '"|`' not in card_of(evaluation).replace('"\\|`', "")


def test_galleries_show_each_outcome_the_surest_decisions_first():
    splits = make_splits(40, skill=0.5)
    splits["test"].logits[0] = np.nan  # indices count this image too
    asked = []

    def read_images(split, indices):
        asked.append((split, indices))
        return [encode(make_pixels(i, 0)) for i in indices]

    evaluation = evaluate(splits, read_images=read_images)
    test = dataclasses.replace(
        splits["test"],
        temperature=evaluation.findings.temperature,
        operating_point=evaluation.findings.operating_point,
    )
    ((split, indices),) = asked
    assert split == "test" and indices and 0 not in indices
    is_wrong = test.decisions != test.labels
    outcomes = [(is_wrong[i], test.labels[i] == 1) for i in indices]
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
    assert page_of(evaluation).count("data:image/jpeg;base64,") == len(indices)


def test_overlays_and_warnings_stand_by_their_images():
    explained = []

    def explain(images, class_index):
        explained.append((len(images), class_index.tolist()))
        return [encode(make_pixels(i, 1)) for i in range(len(images))]

    scores = np.full(40, 0.5)
    scores[3], scores[4] = 2.25, np.nan
    evaluation = evaluate(
        make_splits(40),
        test={"unlikeness": scores},
        read_images=lambda _, indices: [
            encode(make_pixels(i, 0)) for i in indices
        ],
        explain=explain,
    )
    ((count, classes),) = explained
    assert set(classes) == {0, 1} and len(classes) == count
    page, splits = page_of(evaluation), evaluation.findings.splits
    assert page.count('class="heat"') == count
    assert page.count("data:image/jpeg;base64,") == 2 * count
    unlike = splits["test"].out_of_distribution
    assert (unlike.num_images, unlike.num_flagged) == (39, 1)
    assert unlike.median_score == 0.5
    assert "1 (2.6 %) lie beyond it" in " ".join(page.split())
    assert splits["validation"].out_of_distribution is None


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


def test_part_that_is_worse_is_marked():
    test = random_predictions(400, 2, 1, skill=3)
    scanner = ["old" if i < 100 else "new" for i in range(400)]
    test.logits[:100] = random_predictions(100, 2, 3, skill=0).logits
    splits = {"validation": random_predictions(), "test": test}
    findings = evaluate(splits, test={"columns": {"scanner": scanner}}).findings
    parts = findings.split.subgroups["scanner"]
    assert "roc_auc" in parts["old"].below and parts["new"].below == []
    assert (parts["old"].num_images, parts["new"].num_images) == (100, 300)
    assert findings.splits["validation"].subgroups is None


def test_report_without_a_test_split_gives_the_folds_beside_it():
    folds = []
    for seed in range(3):
        splits = make_splits(40, skill=1 + seed)
        folds.append(
            cross_validation.decide(
                splits, splits["test"].class_names, 1, "youden"
            )
        )
    summary = cross_validation.summarize(folds)
    evaluation = evaluate(
        {"validation": make_splits()["validation"]}, cross_validation=summary
    )
    value = summary.pooled.metrics["roc_auc"].value
    caveats = evaluation.findings.caveats
    (caveat,) = [c for c in caveats if "no test split" in c]
    assert f"Those of the 3 folds are not: ROC AUC {value:.3f}" in caveat
    written = json.loads(evaluation.files["metrics.json"])
    assert written["cross_validation"]["num_folds"] == 3
    page = page_of(evaluation)
    assert "Cross-validation over 3 folds" in page
    assert page.count('<th scope="col">fold ') == 3


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
