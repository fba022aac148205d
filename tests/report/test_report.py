"""The files of an evaluation: complete, consistent, caveats first."""

import dataclasses
import html
import json
import re

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.conftest import encode, make_pixels
from tests.evaluation import samples
from trainer.evaluation import subgroups
from trainer.report import data_audit, report

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
CONFIG = {"image_size": 224, "weights": "none", "seed": 0}
NAMES = ("no_tumor", "tumor")


def evaluate(
    num_images=60,
    class_names=NAMES,
    splits=("validation", "test"),
    leaks=0,
    **options,
):
    predictions = {
        split: samples.random_predictions(
            num_images, len(class_names), seed, num_images * 2 // 3
        )
        for seed, split in enumerate(splits)
    }
    return evaluate_predictions(predictions, class_names, leaks, **options)


def evaluate_predictions(predictions, class_names=NAMES, leaks=0, **options):
    return report.evaluate(
        predictions,
        samples.make_info(predictions, class_names, leaks),
        samples.HISTORY,
        CONFIG,
        options.pop("rule", "youden"),
        **options,
    )


def page_text(evaluation) -> str:
    """The words of the page, without tags, scripts and styles."""
    page = evaluation.files["report.html"].decode("utf-8")
    page = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def binary():
    return evaluate()


@pytest.fixture(scope="module")
def four_classes():
    return evaluate(class_names=("glioma", "meningioma", "none", "pituitary"))


def test_every_file_is_written(binary, four_classes):
    assert set(binary.files) == FILES
    assert set(four_classes.files) == FILES
    for evaluation in (binary, four_classes):
        assert json.loads(evaluation.files["metrics.json"]) == (
            evaluation.metrics
        )


def test_metrics_json_has_no_nan(binary):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads(binary.files["metrics.json"], parse_constant=refuse)


def test_values_of_the_page_and_card_are_those_of_metrics_json(
    binary, four_classes
):
    for evaluation in (binary, four_classes):
        text = page_text(evaluation)
        card = evaluation.files["model_card.md"].decode("utf-8")
        for split, found in evaluation.metrics["splits"].items():
            for metric in found["metrics"].values():
                low, high = metric["interval"]
                shown = f"{metric['value']:.3f} ({low:.3f} to {high:.3f})"
                assert shown in text
                assert split != "test" or shown in card


def test_metrics_use_temperature_and_threshold_of_validation(binary):
    test = samples.random_predictions(60, 2, 1, 40)
    calibrated = dataclasses.replace(test, temperature=binary.temperature)
    decided = calibrated.probabilities[:, 1] >= binary.operating_point
    expected = np.mean(decided == (test.labels == 1))
    found = binary.metrics["splits"]["test"]["metrics"]["accuracy"]["value"]
    assert found == pytest.approx(expected, abs=1e-12)


def test_test_split_chooses_nothing(binary):
    other = {
        "validation": samples.random_predictions(60, 2, 0, 40),
        "test": samples.random_predictions(30, 2, 77),
    }
    found = evaluate_predictions(other)
    assert found.temperature == binary.temperature
    assert found.operating_point == binary.operating_point


def test_page_asks_the_network_for_nothing(binary, four_classes):
    for evaluation in (binary, four_classes):
        page = evaluation.files["report.html"].decode("utf-8")
        assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
        sources = re.findall(r"""(?:src|href)=["'](.{5})|url\((.{5})""", page)
        assert {a or b for a, b in sources} == {"data:"}
        assert "default-src 'none'" in page
        assert not re.search(r"<(link|iframe|object|base|form)\b", page)


def test_every_picture_has_an_alternative_text(binary):
    page = binary.files["report.html"].decode("utf-8")
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) >= 5
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_leaks_and_a_missing_test_split_come_first():
    evaluation = evaluate(splits=("validation",), leaks=7)
    first, second = evaluation.metrics["caveats"][:2]
    assert first.startswith("7 images share a patient or a copy")
    assert "optimistic" in second
    text = page_text(evaluation)
    assert text.index(first) < text.index(second) < text.index("In short")
    assert text.index(second) < text.index(evaluation.metrics["verdict"][0])
    card = evaluation.files["model_card.md"].decode("utf-8")
    assert card.index(first) < card.index("ROC AUC")


def test_alarms_of_the_audit_come_before_the_figures():
    audit = data_audit.Audit(
        sentences=[
            data_audit.Sentence("Let in (--on_leak=allow).", is_alarm=True),
            data_audit.Sentence("No patient is known.", is_alarm=True),
            data_audit.Sentence("60 images were read."),
        ]
    )
    evaluation = evaluate(leaks=3, context=report.Context(audit=audit))
    caveats = evaluation.metrics["caveats"]
    # Leaks have a caveat of their own, with the figures without them.
    assert "share a patient or a copy" in caveats[0]
    assert caveats[-1] == "No patient is known."
    assert not any(c.startswith("Let in") for c in caveats)
    head = page_text(evaluation).split("What was found")[0]
    assert "No patient is known." in head


def test_unbeaten_baseline_is_a_caveat():
    validation = samples.random_predictions(60, 2, 0)
    test = samples.random_predictions(60, 2, 1)
    truth = np.eye(2)[test.labels]
    evaluation = evaluate_predictions(
        {"validation": validation, "test": test},
        context=report.Context(
            baselines={
                "nearest neighbour": {"test": truth},
                "majority class": {"test": np.full((60, 2), 0.5)},
            }
        ),
    )
    (caveat,) = [c for c in evaluation.metrics["caveats"] if "trivial" in c]
    assert "nearest neighbour" in caveat
    assert caveat in page_text(evaluation)


def test_images_without_an_answer_are_left_out_and_said():
    predictions = {
        "validation": samples.random_predictions(40, 2, 0),
        "test": samples.random_predictions(40, 2, 1),
    }
    predictions["test"].logits[:3] = np.nan
    predictions["validation"].logits[0] = np.inf
    evaluation = evaluate_predictions(predictions)
    split = evaluation.metrics["splits"]["test"]
    assert (split["num_images"], split["num_without_answer"]) == (37, 3)
    assert any(
        "3 of 40 images of test" in c for c in evaluation.metrics["caveats"]
    )
    assert set(evaluation.files) == FILES


@pytest.mark.parametrize("class_names", [NAMES, ("a", "b", "c")])
def test_no_answer_at_all_still_gives_every_file(class_names):
    predictions = {
        split: samples.random_predictions(9, len(class_names))
        for split in ("validation", "test")
    }
    for p in predictions.values():
        p.logits[:] = np.nan
    evaluation = evaluate_predictions(predictions, class_names)
    assert set(evaluation.files) == FILES
    assert evaluation.metrics["verdict"] == [
        "No image was judged, so nothing is known."
    ]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_in_test_still_gives_every_file(label):
    test = samples.random_predictions(20, 2, 1)
    predictions = {
        "validation": samples.random_predictions(20),
        "test": test.select(test.labels == label),
    }
    evaluation = evaluate_predictions(predictions)
    assert set(evaluation.files) == FILES
    assert any("has no image of" in c for c in evaluation.metrics["caveats"])


def test_flawless_result_is_called_too_easy():
    test = samples.random_predictions(40, 2, 1, skill=50)
    predictions = {"validation": test, "test": test}
    evaluation = evaluate_predictions(predictions)
    assert any("width zero" in c for c in evaluation.metrics["caveats"])


def test_class_names_cannot_become_markup():
    names = ("</script><b>x", '"|`$alert(1)$')
    evaluation = evaluate(class_names=names)
    page = evaluation.files["report.html"].decode("utf-8")
    assert "</script><b>x" not in page
    assert "</script><b>x" in html.unescape(page)
    card = evaluation.files["model_card.md"].decode("utf-8")
    assert "<b>" not in card
    assert '"|`' not in card.replace('"\\|`', "")


def test_galleries_show_each_outcome_the_surest_decisions_first():
    predictions = {
        "validation": samples.random_predictions(40, 2, 0),
        "test": samples.random_predictions(40, 2, 1, skill=0.5),
    }
    predictions["test"].logits[0] = np.nan  # indices count this image too
    asked = []

    def read_images(split, indices):
        asked.append((split, indices))
        return [encode(make_pixels(i, 0)) for i in indices]

    evaluation = evaluate_predictions(
        predictions, context=report.Context(read_images=read_images)
    )
    test = dataclasses.replace(
        predictions["test"], temperature=evaluation.temperature
    )
    decided = test.decided(1, evaluation.operating_point)
    ((split, indices),) = asked
    assert split == "test" and indices and 0 not in indices
    outcomes = []
    for i in indices:
        outcomes.append((decided[i] != test.labels[i], test.labels[i] == 1))
    # Missed, false alarms, found, cleared.
    order = [(True, True), (True, False), (False, True), (False, False)]
    assert list(dict.fromkeys(outcomes)) == order
    assert outcomes == sorted(outcomes, key=order.index)
    for outcome in order:
        members = [
            i for i, o in zip(indices, outcomes, strict=True) if o == outcome
        ]
        sure = test.probabilities[members, decided[members]]
        assert (np.diff(sure) <= 0).all()
    is_wrong = (decided != test.labels) & test.is_finite
    assert set(np.flatnonzero(is_wrong)) <= set(indices)
    page = evaluation.files["report.html"].decode("utf-8")
    assert page.count("data:image/jpeg;base64,") == len(indices)


def test_overlays_and_warnings_stand_by_their_images():
    predictions = {
        "validation": samples.random_predictions(40, 2, 0),
        "test": samples.random_predictions(40, 2, 1),
    }
    explained = []

    def explain(images, class_index):
        explained.append((len(images), class_index.tolist()))
        return [encode(make_pixels(i, 1)) for i in range(len(images))]

    scores = np.full(40, 0.5)
    scores[3], scores[4] = 2.25, np.nan
    evaluation = evaluate_predictions(
        predictions,
        context=report.Context(
            read_images=lambda split, indices: [
                encode(make_pixels(i, 0)) for i in indices
            ],
            explain=explain,
            out_of_distribution={"test": scores},
        ),
    )
    ((count, classes),) = explained
    assert set(classes) == {0, 1} and len(classes) == count
    page = evaluation.files["report.html"].decode("utf-8")
    assert page.count('class="heat"') == count
    assert page.count("data:image/jpeg;base64,") == 2 * count
    found = evaluation.metrics["splits"]["test"]["out_of_distribution"]
    assert found == {"num_images": 39, "num_flagged": 1, "median_score": 0.5}
    assert "1 (2.6 %) lie beyond it" in " ".join(page.split())
    assert (
        "out_of_distribution" not in evaluation.metrics["splits"]["validation"]
    )


def test_leaks_are_judged_apart():
    predictions = {
        "validation": samples.random_predictions(60, 2, 0),
        "test": samples.random_predictions(60, 2, 1, 30),
    }
    train_groups = frozenset(predictions["test"].groups[:20])
    # As sure of copies of training images as it is lost without them.
    copies = [g in train_groups for g in predictions["test"].groups]
    truth = np.eye(2)[predictions["test"].labels]
    knows_copies = np.where(np.array(copies)[:, np.newaxis], truth, 0.5)
    evaluation = evaluate_predictions(
        predictions,
        leaks=20,
        context=report.Context(
            train_groups=train_groups,
            baselines={"nearest neighbour": {"test": knows_copies}},
        ),
    )
    parts = evaluation.metrics["splits"]["test"]["subgroups"][subgroups.KINSHIP]
    clean = [g not in train_groups for g in predictions["test"].groups]
    part = parts[subgroups.INDEPENDENT]
    assert part["num_images"] == sum(clean) < 60
    area = sklearn_metrics.roc_auc_score(
        predictions["test"].labels[clean],
        predictions["test"].probabilities[clean, 1],
    )
    assert part["metrics"]["roc_auc"]["value"] == pytest.approx(area)
    assert f"ROC AUC is {area:.3f}" in evaluation.metrics["caveats"][0]
    assert subgroups.LEAKED in page_text(evaluation)
    apart = {
        value: part["baselines"]["nearest neighbour"]["value"]
        for value, part in parts.items()
    }
    assert apart == {subgroups.INDEPENDENT: 0.5, subgroups.LEAKED: 1.0}
    said = evaluation.metrics["caveats"][0]
    assert "has a ROC AUC of 0.500 there" in said


def test_part_that_is_worse_is_marked():
    test = samples.random_predictions(400, 2, 1, skill=3)
    scanner = ["old" if i < 100 else "new" for i in range(400)]
    test.logits[:100] = samples.random_predictions(100, 2, 3, skill=0).logits
    evaluation = evaluate_predictions(
        {"validation": samples.random_predictions(60), "test": test},
        context=report.Context(columns={"scanner": {"test": scanner}}),
    )
    parts = evaluation.metrics["splits"]["test"]["subgroups"]["scanner"]
    assert "roc_auc" in parts["old"]["below"]
    assert parts["new"]["below"] == []
    assert (parts["old"]["num_images"], parts["new"]["num_images"]) == (
        100,
        300,
    )
    assert "subgroups" not in evaluation.metrics["splits"]["validation"]


def test_rare_values_are_taken_together():
    p = samples.random_predictions(60)
    values = [f"site {i}" if i < 30 else "main" for i in range(59)] + [""]
    overall = evaluate_predictions({"validation": p}).metrics
    found = subgroups.compute_subgroups(
        p, values, overall["splits"]["validation"]["metrics"], NAMES, 1, 0.5
    )
    assert len(found) == 21
    assert found["main"]["num_images"] == 29
    assert sum(part["num_images"] for part in found.values()) == 60
