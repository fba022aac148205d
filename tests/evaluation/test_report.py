"""The files of an evaluation, and the report in a browser."""

import dataclasses
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.conftest import encode, make_pixels
from tests.evaluation import conftest
from trainer.evaluation import report

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
        split: conftest.random_predictions(
            num_images, len(class_names), seed, num_images * 2 // 3
        )
        for seed, split in enumerate(splits)
    }
    return evaluate_predictions(predictions, class_names, leaks, **options)


def evaluate_predictions(predictions, class_names=NAMES, leaks=0, **options):
    return report.evaluate(
        predictions,
        conftest.make_info(predictions, class_names, leaks),
        conftest.HISTORY,
        CONFIG,
        options.pop("rule", "youden"),
        **options,
    )


def page_text(evaluation) -> str:
    """The words of the page, without tags, scripts and styles."""
    page = evaluation.files["report.html"].decode("utf-8")
    page = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


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
    test = conftest.random_predictions(60, 2, 1, 40)
    calibrated = dataclasses.replace(test, temperature=binary.temperature)
    decided = calibrated.probabilities[:, 1] >= binary.operating_point
    expected = np.mean(decided == (test.labels == 1))
    found = binary.metrics["splits"]["test"]["metrics"]["accuracy"]["value"]
    assert found == pytest.approx(expected, abs=1e-12)


def test_test_split_chooses_nothing(binary):
    other = {
        "validation": conftest.random_predictions(60, 2, 0, 40),
        "test": conftest.random_predictions(30, 2, 77),
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


def test_unbeaten_baseline_is_a_caveat():
    validation = conftest.random_predictions(60, 2, 0)
    test = conftest.random_predictions(60, 2, 1)
    truth = np.eye(2)[test.labels]
    evaluation = evaluate_predictions(
        {"validation": validation, "test": test},
        baselines={
            "nearest neighbour": {"test": truth},
            "majority class": {"test": np.full((60, 2), 0.5)},
        },
    )
    (caveat,) = [c for c in evaluation.metrics["caveats"] if "trivial" in c]
    assert "nearest neighbour" in caveat
    assert caveat in page_text(evaluation)


def test_images_without_an_answer_are_left_out_and_said():
    predictions = {
        "validation": conftest.random_predictions(40, 2, 0),
        "test": conftest.random_predictions(40, 2, 1),
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
        split: conftest.random_predictions(9, len(class_names))
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
    test = conftest.random_predictions(20, 2, 1)
    predictions = {
        "validation": conftest.random_predictions(20),
        "test": test.select(test.labels == label),
    }
    evaluation = evaluate_predictions(predictions)
    assert set(evaluation.files) == FILES
    assert any("has no image of" in c for c in evaluation.metrics["caveats"])


def test_flawless_result_is_called_too_easy():
    test = conftest.random_predictions(40, 2, 1, skill=50)
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


def test_gallery_shows_the_surest_mistakes_of_all_images():
    predictions = {
        "validation": conftest.random_predictions(40, 2, 0),
        "test": conftest.random_predictions(40, 2, 1, skill=0.5),
    }
    predictions["test"].logits[0] = np.nan  # indices count this image too
    asked = []

    def read_images(split, indices):
        asked.append((split, indices))
        return [encode(make_pixels(i, 0)) for i in indices]

    evaluation = evaluate_predictions(predictions, read_images=read_images)
    test = dataclasses.replace(
        predictions["test"], temperature=evaluation.temperature
    )
    decided = test.decided(1, evaluation.operating_point)
    ((split, indices),) = asked
    assert split == "test" and indices and 0 not in indices
    assert all(decided[i] != test.labels[i] for i in indices)
    sure = test.probabilities[indices, decided[indices]]
    assert (np.diff(sure) <= 0).all()
    page = evaluation.files["report.html"].decode("utf-8")
    assert page.count("data:image/jpeg;base64,") == len(indices)


PROBE = """
<script>
const seen = [];
const slider = document.getElementById("slider");
for (let step = 0; step <= Number(slider.max); step++) {
  slider.value = step;
  slider.dispatchEvent(new Event("input"));
  const cells = {};
  for (const id of ["tp", "fp", "fn", "tn"]) {
    cells[id] = Number(document.getElementById(id).textContent);
  }
  for (const row of document.getElementById("figures").rows) {
    cells[row.cells[0].textContent] = row.cells[1].textContent;
  }
  seen.push(cells);
}
document.getElementById("reset").click();
const start = {};
for (const row of document.getElementById("figures").rows) {
  start[row.cells[0].textContent] = row.cells[1].textContent;
}
const result = document.createElement("pre");
result.id = "probe";
result.textContent = JSON.stringify({
  seen, start,
  threshold: document.getElementById("threshold-value").textContent,
  frequencies: document.getElementById("frequencies").textContent,
  wide: document.documentElement.scrollWidth > window.innerWidth,
});
document.body.appendChild(result);
</script>
"""


def open_in_browser(page: str, directory, size="1200,2600"):
    """What the probe found, and what the browser logged."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    path = directory / "report.html"
    path.write_text(page.replace("</body>", PROBE + "</body>"), "utf-8")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={directory / 'profile'}",
            f"--window-size={size}",
            "--enable-logging=stderr",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found[1])), done.stderr


def test_slider_shows_what_python_computes(binary, tmp_path):
    page = binary.files["report.html"].decode("utf-8")
    found, log = open_in_browser(page, tmp_path)
    assert "CONSOLE" not in log
    test = dataclasses.replace(
        conftest.random_predictions(60, 2, 1, 40),
        temperature=binary.temperature,
    )
    scores, truth = test.probabilities[:, 1], test.labels == 1
    cuts = [0, *np.unique(scores), 2]
    assert len(found["seen"]) == len(cuts) - 1
    for step, seen in enumerate(found["seen"]):
        decided = scores > cuts[step] if step else np.ones(60, bool)
        assert seen["tp"] == np.sum(decided & truth)
        assert seen["fp"] == np.sum(decided & ~truth)
        assert seen["fn"] == np.sum(~decided & truth)
        assert seen["tn"] == np.sum(~decided & ~truth)
    metrics = binary.metrics["splits"]["test"]["metrics"]
    for label, name in {
        "Sensitivity": "sensitivity",
        "Specificity": "specificity",
        "Positive predictive value": "positive_predictive_value",
        "Negative predictive value": "negative_predictive_value",
        "Accuracy": "accuracy",
    }.items():
        assert found["start"][label] == report.format_metric(metrics[name])
    assert found["start"]["F1"] == f"{metrics['f1']['value']:.3f}"
    assert found["threshold"] == f"{binary.operating_point:.3f}"
    ppv = metrics["positive_predictive_value"]["value"]
    assert f"right in {ppv:.3f} of cases" in found["frequencies"]


def test_page_of_four_classes_fits_a_phone(four_classes, tmp_path):
    page = four_classes.files["report.html"].decode("utf-8")
    found, log = open_in_browser(page, tmp_path, "500,900")
    assert "CONSOLE" not in log
    assert found["wide"] is False
    assert len(found["seen"]) == 61


def test_page_of_one_class_has_no_script_error(tmp_path):
    test = conftest.random_predictions(20, 2, 1)
    evaluation = evaluate_predictions(
        {
            "validation": conftest.random_predictions(20),
            "test": test.select(test.labels == 1),
        }
    )
    page = evaluation.files["report.html"].decode("utf-8")
    found, log = open_in_browser(page, tmp_path)
    assert "CONSOLE" not in log
    assert found["start"]["Specificity"] == "n/a"
