// Asks the REST API as any client would. Only what a browser cannot decode
// (DICOM, NIfTI, TIFF) goes through /page/images first: every file does, so
// that the model gets the pixels that its training would have got.
"use strict";

const $ = (id) => document.getElementById(id);
const state = { file: null, images: [], count: 0, asked: 0 };

async function fetchJson(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  const document = await response.json();
  if (!response.ok) throw new Error(document.error);
  return document;
}

function post(path, body) {
  return fetchJson(path, { method: "POST", body: JSON.stringify(body) });
}

function modelPath() {
  return `/v1/models/${encodeURIComponent($("model").value)}`;
}

function show(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

async function ask() {
  const number = ++state.asked;
  const image = state.images[Number($("slice").value)];
  $("busy").hidden = false;
  show("error", "");
  try {
    const metadata = await fetchJson(`${modelPath()}/metadata`);
    const signatures = metadata.metadata.signature_def.signature_def;
    const answer = await post(`${modelPath()}:predict`, {
      signature_name: signatures.explain ? "explain" : "serving_default",
      instances: [{ image_bytes: { b64: image.b64 } }],
    });
    const { models } = await fetchJson("/page/models");
    const names = models[$("model").value] || [];
    // A later image may have been dropped while this one was under way.
    if (number !== state.asked) return;
    render(image, answer.predictions[0], names, metadata.model_spec.version);
  } catch (error) {
    if (number !== state.asked) return;
    $("result").hidden = true;
    show("error", error.message);
  } finally {
    if (number === state.asked) $("busy").hidden = true;
  }
}

function render(image, prediction, names, version) {
  if (!prediction.valid) {
    throw new Error("The model cannot decode this image.");
  }
  const overlay = prediction.overlay_bytes && prediction.overlay_bytes.b64;
  const sent = `data:image/${image.format};base64,${image.b64}`;
  const paint = () => {
    $("image").src = overlay && $("overlay").checked
      ? `data:image/png;base64,${overlay}` : sent;
  };
  $("overlay").onchange = paint;
  $("overlay-choice").hidden = !overlay;
  paint();
  $("name").textContent = state.file.name + image.suffix;
  show("warning", warningOf(prediction));
  show("decision", decisionOf(prediction));
  $("label").textContent = `Most probable: ${prediction.label}`;
  const rows = prediction.probabilities.map((probability, index) =>
    probabilityRow(names[index] || `class ${index}`, probability));
  $("probabilities").replaceChildren(...rows);
  $("version").textContent = `${$("model").value}, version ${version}`;
  $("result").hidden = false;
}

function warningOf(prediction) {
  if (!prediction.is_out_of_distribution) return "";
  const score = prediction.out_of_distribution.toFixed(2);
  return "This image is unlike those that the model was trained on " +
    `(${score}; above 1 is unusual). Do not rely on the answer.`;
}

function decisionOf(prediction) {
  const possible = (prediction.class_names || []).filter(
    (_, index) => (prediction.prediction_set || [])[index]);
  const unsure = possible.length > 1
    ? `Uncertain: ${possible.join(" or ")}. ` : "";
  if (prediction.decision === undefined) return unsure;
  const sign = prediction.decision ? "Positive" : "Negative";
  return `${unsure}${sign} (score ${prediction.score.toFixed(3)})`;
}

function probabilityRow(name, probability) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const bar = document.createElement("meter");
  bar.value = probability;
  bar.textContent = name;
  const cells = [document.createElement("td"), document.createElement("td")];
  cells[0].append(bar);
  cells[1].textContent = `${(100 * probability).toFixed(1)} %`;
  row.append(head, ...cells);
  return row;
}

async function open(file) {
  const number = ++state.asked;
  show("error", "");
  $("result").hidden = true;
  $("busy").hidden = false;
  try {
    const model = encodeURIComponent($("model").value);
    const answer = await fetchJson(`/page/images?model=${model}`, {
      method: "POST", body: file,
    });
    if (number !== state.asked) return;
    state.file = file;
    state.images = answer.images;
    $("slice").max = answer.images.length - 1;
    // The middle of a volume shows more than its first slice.
    $("slice").value = Math.floor(answer.images.length / 2);
    $("slice-choice").hidden = answer.images.length < 2;
    numberSlice(answer.num_images);
    state.count = answer.num_images;
    await ask();
  } catch (error) {
    if (number !== state.asked) return;
    $("busy").hidden = true;
    show("error", `${file.name}: ${error.message}`);
  }
}

function numberSlice(count) {
  $("slice-number").textContent = `${Number($("slice").value) + 1} of ${count}`;
}

async function start() {
  const drop = $("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    // Anywhere: a near miss must not make the browser open the file.
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file) open(file);
  });
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) open(file);
    $("file").value = "";
  });
  $("slice").addEventListener("input", () => numberSlice(state.count));
  $("slice").addEventListener("change", ask);
  // Another model may see files through another window.
  $("model").addEventListener("change", () => state.file && open(state.file));
  try {
    const { models } = await fetchJson("/page/models");
    $("model").replaceChildren(
      ...Object.keys(models).map((name) => new Option(name)));
  } catch (error) {
    show("error", error.message);
  }
}

start();
