"use strict";
// Moves the threshold. Every figure is computed as metrics.json computes it, so
// that the slider's start repeats the numbers above it.
(() => {
  const data = JSON.parse(document.getElementById("slider-data").textContent);
  const element = (id) => document.getElementById(id);
  const Z = 1.959963984540054; // normal quantile of a 95 % interval
  let curve, thresholds, startStep, step;

  const share = (a, b) => (b > 0 ? a / b : NaN);
  const three = (value) => (Number.isFinite(value) ? value.toFixed(3) : "n/a");

  function effectiveTrials(successes, groups) {
    const sums = new Map();
    groups.forEach((group, i) => {
      const sum = sums.get(group) || [0, 0];
      sums.set(group, [sum[0] + successes[i], sum[1] + 1]);
    });
    const n = successes.length, m = sums.size;
    if (m === n) return n;
    const p = successes.reduce((a, b) => a + b, 0) / n;
    if (p === 0 || p === 1) return m;
    let between = 0;
    for (const [hits, size] of sums.values()) between += (hits - p * size) ** 2;
    between *= m / (m - 1) / n ** 2;
    return n / Math.max(1, between / (p * (1 - p) / (n - 1)));
  }

  // A proportion over the images that `counts`, as [value, low, high].
  function proportion(counts, succeeds) {
    const successes = [], groups = [];
    curve.scores.forEach((score, i) => {
      if (!counts(i)) return;
      successes.push(succeeds(i) ? 1 : 0);
      groups.push(data.groups[i]);
    });
    if (!successes.length) return [NaN, NaN, NaN];
    const p = successes.reduce((a, b) => a + b, 0) / successes.length;
    if (successes.length > 1 && new Set(groups).size === 1) return [p, NaN, NaN];
    const n = effectiveTrials(successes, groups);
    const scale = 1 + Z ** 2 / n;
    const center = (p + Z ** 2 / (2 * n)) / scale;
    const half = Z / scale * Math.sqrt(p * (1 - p) / n + Z ** 2 / (4 * n ** 2));
    return [p, p === 0 ? 0 : Math.max(0, center - half), p === 1 ? 1 : Math.min(1, center + half)];
  }

  function choose(index) {
    curve = data.curves[index];
    const scores = [...new Set(curve.scores)].sort((a, b) => a - b);
    // One step between each two scores; the start stands for its own step.
    thresholds = [0];
    for (let i = 1; i < scores.length; i++) thresholds.push((scores[i - 1] + scores[i]) / 2);
    thresholds.push((scores[scores.length - 1] + 1) / 2);
    if (scores[scores.length - 1] >= 1) thresholds[thresholds.length - 1] = 1.000001;
    startStep = scores.filter((score) => score < curve.start).length;
    thresholds[startStep] = curve.start;
    element("slider").max = thresholds.length - 1;
    element("positive-name").textContent = curve.name;
    document.querySelectorAll("#threshold .p").forEach((e) => (e.textContent = curve.name));
    document.querySelectorAll("#threshold .r").forEach((e) => (e.textContent = curve.rest));
    const positives = curve.truth.reduce((a, b) => a + b, 0);
    element("prevalence").value = Math.min(99.9, Math.max(0.1, 100 * positives / curve.truth.length)).toFixed(1);
    move(startStep);
  }

  function move(to) {
    step = to;
    const threshold = thresholds[step];
    const called = (i) => curve.scores[i] >= threshold;
    const has = (i) => curve.truth[i] === 1;
    let tp = 0, fp = 0, fn = 0, tn = 0;
    curve.scores.forEach((score, i) => {
      if (has(i)) called(i) ? tp++ : fn++;
      else called(i) ? fp++ : tn++;
    });
    element("slider").value = step;
    element("slider").setAttribute("aria-valuetext", threshold.toFixed(3));
    element("threshold-value").textContent = threshold.toFixed(3);
    for (const [id, count] of Object.entries({ tp, fp, fn, tn })) element(id).textContent = count;
    const rows = [
      ["Sensitivity", proportion(has, called)],
      ["Specificity", proportion((i) => !has(i), (i) => !called(i))],
      ["Positive predictive value", proportion(called, has)],
      ["Negative predictive value", proportion((i) => !called(i), (i) => !has(i))],
      ["Accuracy", proportion(() => true, (i) => has(i) === called(i))],
      ["F1", [tp + fp + fn ? 2 * tp / (2 * tp + fp + fn) : 0]],
    ];
    element("figures").replaceChildren(...rows.map(([name, [value, low, high]]) => {
      const row = document.createElement("tr");
      const head = row.appendChild(document.createElement("th"));
      head.scope = "row";
      head.textContent = name;
      const interval = Number.isFinite(low) ? ` (${three(low)}\u00a0to\u00a0${three(high)})` : "";
      row.appendChild(document.createElement("td")).textContent = three(value) + interval;
      return row;
    }));
    drawRoc(share(fp, fp + tn), share(tp, tp + fn));
    drawHistogram(threshold);
    frequencies(share(tp, tp + fn), share(tn, fp + tn));
  }

  function frequencies(sensitivity, specificity) {
    const percent = Number(element("prevalence").value);
    const target = element("frequencies");
    if (!(percent > 0 && percent < 100)) {
      target.textContent = "Give a percentage between 0 and 100.";
      return;
    }
    if (!Number.isFinite(sensitivity + specificity)) {
      target.textContent = "This needs images of both classes.";
      return;
    }
    const sick = 10 * percent, well = 1000 - sick;
    const round = (value) => (value > 0 && value < 10 ? value.toFixed(1) : value.toFixed(0));
    const found = sick * sensitivity, alarms = well * (1 - specificity);
    const rightCall = share(found, found + alarms);
    const rightClear = share(well - alarms, well - alarms + sick - found);
    target.textContent =
      `Of 1000 such images, ${round(sick)} have ${curve.name}: ${round(found)} are found and ` +
      `${round(sick - found)} missed. Of the other ${round(well)}, ${round(alarms)} are called ` +
      `${curve.name} by mistake. A positive call is then right in ` +
      `${three(rightCall)} of cases, a negative call in ${three(rightClear)}.`;
  }

  // Drawing: one user unit is one CSS pixel of a 260 x 250 picture.
  const LEFT = 34, BOTTOM = 215, SIZE = 200;
  const x = (value) => LEFT + SIZE * value;
  const y = (value) => BOTTOM - SIZE * value;

  function add(svg, name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return svg.appendChild(node);
  }

  function axes(svg, xLabel, yLabel) {
    svg.replaceChildren();
    add(svg, "rect", { x: LEFT, y: BOTTOM - SIZE, width: SIZE, height: SIZE, fill: "#f7f9fb", stroke: "#c3ccd5" });
    for (const tick of [0, 0.5, 1]) {
      add(svg, "text", { x: x(tick), y: BOTTOM + 13, "text-anchor": "middle", fill: "#46535f" }, tick);
    }
    add(svg, "text", { x: x(0.5), y: BOTTOM + 28, "text-anchor": "middle", fill: "#1b2733" }, xLabel);
    add(svg, "text", { transform: `translate(10 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle", fill: "#1b2733" }, yLabel);
  }

  function drawRoc(falseAlarms, sensitivity) {
    const svg = element("roc");
    axes(svg, "false alarms (1 - specificity)", "sensitivity");
    for (const tick of [0, 0.5, 1]) {
      add(svg, "text", { x: LEFT - 4, y: y(tick) + 3, "text-anchor": "end", fill: "#46535f" }, tick);
    }
    add(svg, "line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), stroke: "#8796a4", "stroke-dasharray": "2 3" });
    const positives = curve.truth.reduce((a, b) => a + b, 0);
    const negatives = curve.truth.length - positives;
    if (!positives || !negatives) {
      add(svg, "text", { x: x(0.5), y: y(0.5), "text-anchor": "middle" }, "needs images of both classes");
      return;
    }
    const order = curve.scores.map((_, i) => i).sort((a, b) => curve.scores[b] - curve.scores[a]);
    const points = [[0, 0]];
    let hits = 0, alarms = 0;
    order.forEach((image, i) => {
      if (curve.truth[image]) hits++;
      else alarms++;
      if (i + 1 < order.length && curve.scores[order[i + 1]] === curve.scores[image]) return;
      points.push([alarms / negatives, hits / positives]);
    });
    add(svg, "polyline", {
      points: points.map(([a, b]) => `${x(a).toFixed(2)},${y(b).toFixed(2)}`).join(" "),
      fill: "none", stroke: "#0072b2", "stroke-width": 2,
    });
    add(svg, "circle", { cx: x(falseAlarms), cy: y(sensitivity), r: 6, fill: "#d55e00", stroke: "#fff", "stroke-width": 1.5 });
  }

  function drawHistogram(threshold) {
    const svg = element("histogram"), bins = 20, counts = [new Array(bins).fill(0), new Array(bins).fill(0)];
    curve.scores.forEach((score, i) => counts[curve.truth[i]][Math.min(bins - 1, Math.floor(score * bins))]++);
    const most = Math.max(1, ...counts[0], ...counts[1]), width = SIZE / bins, middle = y(0.5);
    axes(svg, "probability", "images");
    for (let bin = 0; bin < bins; bin++) {
      const up = 95 * counts[1][bin] / most, down = 95 * counts[0][bin] / most;
      add(svg, "rect", { x: LEFT + bin * width + 0.5, y: middle - up, width: width - 1, height: up, fill: "#d55e00" });
      add(svg, "rect", { x: LEFT + bin * width + 0.5, y: middle, width: width - 1, height: down, fill: "#0072b2" });
    }
    add(svg, "line", { x1: LEFT, x2: LEFT + SIZE, y1: middle, y2: middle, stroke: "#46535f" });
    add(svg, "text", { x: LEFT, y: y(1) - 5, fill: "#8a3300" }, `up: has ${curve.name}`);
    add(svg, "text", { x: LEFT + SIZE, y: y(1) - 5, "text-anchor": "end", fill: "#004f7d" }, `down: ${curve.rest}`);
    const at = x(Math.min(1, threshold));
    add(svg, "line", { x1: at, x2: at, y1: y(0), y2: y(1), stroke: "#1b2733", "stroke-width": 2, "stroke-dasharray": "5 3" });
  }

  data.curves.forEach((each, i) => element("class").add(new Option(each.name, i)));
  element("class-label").hidden = data.curves.length < 2;
  element("class").addEventListener("change", (event) => choose(Number(event.target.value)));
  element("slider").addEventListener("input", (event) => move(Number(event.target.value)));
  element("reset").addEventListener("click", () => move(startStep));
  element("prevalence").addEventListener("input", () => move(step));
  element("threshold").hidden = false;
  choose(0);
})();
