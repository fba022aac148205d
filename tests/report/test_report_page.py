"""The report in a browser: what its script shows is what Python computes."""

import dataclasses
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.conftest import encode, make_pixels
from tests.evaluation import samples
from trainer.report import report

NAMES = ("no_tumor", "tumor")
NO_CONTEXT = report.Context()


def evaluate(predictions, class_names=NAMES, context=NO_CONTEXT):
    return report.evaluate(
        predictions,
        samples.make_info(predictions, class_names),
        samples.HISTORY,
        {"image_size": 224, "weights": "none"},
        "youden",
        context=context,
    )


PROBE = """
<script>
const plain = (cell) => cell.textContent.replaceAll("\\u00a0", " ");
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
    cells[row.cells[0].textContent] = plain(row.cells[1]);
  }
  seen.push(cells);
}
document.getElementById("reset").click();
const start = {};
for (const row of document.getElementById("figures").rows) {
  start[row.cells[0].textContent] = plain(row.cells[1]);
}
// Contrast of every text with what is behind it, as WCAG 2.1 defines it.
const parse = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = (color) => {
  const [r, g, b] = color.slice(0, 3).map((v) =>
    v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = parse(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
let faintest = [21, ""];
for (const element of document.querySelectorAll("body *")) {
  const text = [...element.childNodes].filter((n) => n.nodeType === 3)
    .map((n) => n.data.trim()).join("");
  if (!text || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const drawn = element.namespaceURI.endsWith("svg");
  const ink = luminance(parse(drawn ? style.fill : style.color));
  const paper = luminance(behind(element));
  const [high, low] = [Math.max(ink, paper), Math.min(ink, paper)];
  const contrast = (high + 0.05) / (low + 0.05);
  if (contrast < faintest[0]) faintest = [contrast, text];
}
const picture = document.querySelector(".picture");
const opacities = [];
if (picture) {
  const heat = picture.querySelector(".heat");
  for (let i = 0; i < 3; i++, picture.click()) {
    opacities.push(getComputedStyle(heat).opacity);
  }
}
const result = document.createElement("pre");
result.id = "probe";
result.textContent = JSON.stringify({
  seen, start, faintest, opacities,
  requests: performance.getEntriesByType("resource").map((e) => e.name)
    .filter((name) => !name.startsWith("data:")),
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


def test_slider_shows_what_python_computes(tmp_path):
    binary = evaluate(
        {
            "validation": samples.random_predictions(60, 2, 0, 40),
            "test": samples.random_predictions(60, 2, 1, 40),
        },
        context=report.Context(
            read_images=lambda split, indices: [
                encode(make_pixels(i, 0)) for i in indices
            ],
            explain=lambda images, classes: images,
            out_of_distribution={"test": np.linspace(0, 2, 60)},
        ),
    )
    page = binary.files["report.html"].decode("utf-8")
    found, log = open_in_browser(page, tmp_path)
    assert "CONSOLE" not in log
    assert found["requests"] == []
    assert 4.5 <= found["faintest"][0] < 10, found["faintest"]
    assert found["opacities"] == ["0", "1", "0"]
    test = dataclasses.replace(
        samples.random_predictions(60, 2, 1, 40),
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


def test_page_of_four_classes_fits_a_phone(tmp_path):
    four_classes = evaluate(
        {
            "validation": samples.random_predictions(60, 4, 0, 40),
            "test": samples.random_predictions(60, 4, 1, 40),
        },
        ("glioma", "meningioma", "none", "pituitary"),
    )
    page = four_classes.files["report.html"].decode("utf-8")
    found, log = open_in_browser(page, tmp_path, "500,900")
    assert "CONSOLE" not in log
    assert found["wide"] is False
    assert len(found["seen"]) == 61


def test_page_of_one_class_has_no_script_error(tmp_path):
    test = samples.random_predictions(20, 2, 1)
    evaluation = evaluate(
        {
            "validation": samples.random_predictions(20),
            "test": test.select(test.labels == 1),
        }
    )
    page = evaluation.files["report.html"].decode("utf-8")
    found, log = open_in_browser(page, tmp_path)
    assert "CONSOLE" not in log
    assert found["start"]["Specificity"] == "n/a"
