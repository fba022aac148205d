"""The report in a browser: what its script shows is what Python computes."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.evaluation.samples import POSITIVE
from tests.report.samples import evaluate_part, page_of
from trainer.report import page

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


def open_in_browser(text: str, directory, size="1200,2600"):
    """What the probe found, and what the browser logged."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    path = directory / "report.html"
    path.write_text(text.replace("</body>", PROBE + "</body>"), "utf-8")
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
    probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert probe, done.stderr
    return json.loads(html.unescape(probe[1])), done.stderr


def test_slider_shows_what_python_computes(illustrated, tmp_path):
    findings = illustrated.evaluation.findings
    shown, log = open_in_browser(page_of(illustrated.evaluation), tmp_path)
    assert "CONSOLE" not in log
    assert shown["requests"] == []
    assert 4.5 <= shown["faintest"][0] < 10, shown["faintest"]
    assert shown["opacities"] == ["0", "1", "0"]
    test = illustrated.test.select(illustrated.test.is_finite)
    scores, truth = test.scores, test.labels == POSITIVE
    cuts = [0, *np.unique(scores), 2]
    assert len(shown["seen"]) == len(cuts) - 1
    for step, seen in enumerate(shown["seen"]):
        decided = scores > cuts[step] if step else np.ones(39, bool)
        assert seen["tp"] == np.sum(decided & truth)
        assert seen["fp"] == np.sum(decided & ~truth)
        assert seen["fn"] == np.sum(~decided & truth)
        assert seen["tn"] == np.sum(~decided & ~truth)
    metrics = findings.split.metrics
    for name in (
        "sensitivity",
        "specificity",
        "positive_predictive_value",
        "negative_predictive_value",
        "accuracy",
    ):
        label = page.GLOSSARY[name][0]
        assert shown["start"][label] == page.format_metric(metrics[name])
    assert shown["start"]["F1"] == f"{metrics['f1'].value:.3f}"
    assert shown["threshold"] == f"{findings.operating_point:.3f}"
    ppv = metrics["positive_predictive_value"].value
    assert f"right in {ppv:.3f} of cases" in shown["frequencies"]


def test_page_of_four_classes_fits_a_phone(of_four, tmp_path):
    shown, log = open_in_browser(page_of(of_four), tmp_path, "500,900")
    assert "CONSOLE" not in log
    assert shown["wide"] is False
    assert len(shown["seen"]) == 61


def test_page_of_one_class_has_no_script_error(tmp_path):
    shown, log = open_in_browser(
        page_of(evaluate_part(2, (POSITIVE,))), tmp_path
    )
    assert "CONSOLE" not in log
    assert shown["start"]["Specificity"] == "n/a"
