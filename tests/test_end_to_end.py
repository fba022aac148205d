"""Drives the commands as a user would, over both protocols."""

import contextlib
import csv
import filecmp
import io
import json
import os
import re
import shutil
import signal
import time

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests import cloud_storage, documentation, processes, quick, runs
from trainer import startup
from trainer.data import preprocessing, records
from trainer.storage import buckets, paths

pytestmark = pytest.mark.slow

JOB_FILES = {
    "config.json",
    "dataset.json",
    "history.csv",
    "medical_image_classifier.keras",
    "checkpoints",
    "run.json",
    "logs",
    "evaluation",
    "export",
    "_SUCCESS",
}
EVALUATION_FILES = {
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


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Scans, their records and a finished run."""
    directory = tmp_path_factory.mktemp("end_to_end")
    runs.command(
        "trainer.data.sample_data",
        f"--output_dir={directory / 'scans'}",
        "--num_images=60",
        "--image_size=48",
    )
    runs.command(
        "trainer.data.build_records",
        f"--input_dir={directory / 'scans'}",
        f"--output_dir={directory / 'records'}",
    )
    backbone = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    backbone.save_weights(directory / "backbone.weights.h5")
    runs.command("trainer.task", *runs.train_arguments(directory, "run"))
    return directory


def test_run_leaves_the_files_of_the_contract(workspace):
    assert set(os.listdir(workspace / "run")) >= JOB_FILES
    found = set(os.listdir(workspace / "run/evaluation"))
    assert found >= EVALUATION_FILES
    version = workspace / "run/export/1"
    assert (version / "saved_model.pb").exists()
    assert (version / "assets.extra/tf_serving_warmup_requests").exists()
    with open(workspace / "run/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        *(("head", str(epoch)) for epoch in range(1, 61)),
        ("fine_tune", "1"),
        ("fine_tune", "2"),
    ]


def test_whole_network_is_trained_exported_and_blessed(workspace):
    """The one run here with all layers of EfficientNetB0."""
    weights = workspace / "whole.weights.h5"
    quick.WHOLE_BACKBONE(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    ).save_weights(weights)
    done = processes.run(
        "trainer.task",
        *runs.train_arguments(workspace, "whole"),
        f"--weights={weights}",
        "--head_epochs=0",
        "--fine_tune_epochs=1",
        "--nodetector",
        whole=True,
    )
    assert done.returncode == 0, done.stderr
    # The export gives the evaluated probabilities of all images.
    assert "export    blessed" in done.stderr
    for name in ("export/1/saved_model.pb", "evaluation/model_card.md"):
        for run, is_in in (("whole", False), ("run", True)):
            data = (workspace / run / name).read_bytes()
            assert (b"out_of_distribution" in data) == is_in, (run, name)
    page = (workspace / "whole/evaluation/report.html").read_text()
    assert "Does it know what it does not know?" not in page
    with open(workspace / "whole/history.csv", newline="") as file:
        assert [row["phase"] for row in csv.DictReader(file)] == ["fine_tune"]


def find_images(data: bytes):
    """What can be decoded of a file of anything, by the starts of images."""
    for match in re.finditer(rb"\xff\xd8\xff|\x89PNG\r\n", data):
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            image = PIL.Image.open(io.BytesIO(data[match.start() :]))
            yield np.asarray(image.convert("L").resize((32, 32)), float)


def test_export_holds_no_image_and_no_id_of_the_data_set(workspace):
    files = sorted((workspace / "run/export").rglob("*"))
    contents = {f.name: f.read_bytes() for f in files if f.is_file()}
    found = [i for data in contents.values() for i in find_images(data)]
    assert len(contents) > 6 and len(found) > 20
    paths_of = sorted((workspace / "records").glob("*.tfrecord"))
    dataset = tf.data.TFRecordDataset([str(path) for path in paths_of])
    for example in dataset.map(records.parse_example).as_numpy_iterator():
        pixels = PIL.Image.open(io.BytesIO(example["image"])).convert("L")
        # As the model sees it, and through whatever compression.
        small = np.asarray(pixels.resize((32, 32)), float)
        assert min(np.abs(small - other).mean() for other in found) > 8
        image_id = example["id"]
        # All JPEGs begin with the same tables.
        needles = [image_id.split(b"/")[-1], example["image"][-120:-20]]
        for needle in (image_id, *needles, example["sha256"]):
            for name, data in contents.items():
                assert needle not in data, (name, image_id)


def test_every_image_is_predicted_exactly_once(workspace):
    with open(workspace / "records/dataset.json") as file:
        counts = json.load(file)["counts"]
    for split in ("validation", "test"):
        rows = runs.read_predictions(workspace, split)
        assert len(rows) == sum(counts[split].values())
        assert len({row["id"] for row in rows}) == len(rows)
        for name, count in counts[split].items():
            assert sum(row["label"] == name for row in rows) == count


@pytest.fixture(scope="module")
def server(workspace):
    """Addresses of a local server on the exported model."""
    with runs.serving_from(workspace / "run/export") as targets:
        yield targets


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_server_gives_the_evaluated_probability_of_every_test_image(
    workspace, server, protocol
):
    rows = runs.read_predictions(workspace, "test")
    with open(workspace / "run/evaluation/metrics.json") as file:
        operating_point = json.load(file)["operating_point"]
    files = [workspace / "scans" / row["id"] for row in rows]
    answers = runs.ask(server[protocol], files)
    assert len(answers) == len(rows)
    for answer, row in zip(answers, rows, strict=True):
        assert answer["file"].endswith(row["id"])
        assert answer["score"] == pytest.approx(float(row["score"]), abs=1e-5)
        assert answer["label"] == row["predicted"]
        # A score this near the operating point may round to either side.
        if abs(float(row["score"]) - operating_point) > 1e-5:
            assert answer["decision"] == (row["decision"] == "tumor")


def test_finished_run_started_again_exports_nothing_new(workspace):
    runs.command("trainer.task", *runs.train_arguments(workspace, "run"))
    assert os.listdir(workspace / "run/export") == ["1"]


def test_finished_run_is_exported_as_asked_later(workspace, tmp_path):
    pytest.importorskip("ai_edge_litert")
    shutil.copytree(workspace / "run", tmp_path / "run")
    arguments = runs.train_arguments(workspace, tmp_path / "run")
    runs.command(
        "trainer.task", *arguments, "--export_formats=saved_model,litert"
    )
    version = tmp_path / "run/export/2"
    manifest = json.loads((version / "manifest.json").read_text())
    assert "assets.extra/pixels.tflite" in manifest["files"]
    blessing = json.loads((version / "blessing.json").read_text())
    assert blessing["blessed"]
    assert "litert" in [check["name"] for check in blessing["checks"]]


def test_reloaded_keras_file_gives_the_evaluated_probabilities(workspace):
    run = workspace / "run"
    model = keras.models.load_model(run / "medical_image_classifier.keras")
    with open(run / "evaluation/metrics.json") as file:
        temperature = json.load(file)["temperature"]
    for row in runs.read_predictions(workspace, "test")[:3]:
        encoded = (workspace / "scans" / row["id"]).read_bytes()
        pixels = preprocessing.prepare_image(tf.constant(encoded), 32, 1)
        logit = model(pixels[tf.newaxis]).numpy()[0, 0] / temperature
        probability = 1 / (1 + np.exp(-float(logit)))
        assert probability == pytest.approx(
            float(row["probability_tumor"]), abs=1e-5
        )


def inject_faults(cloud):
    """What a network and a busy service do."""
    for fault, pattern in (
        (503, "POST /upload"),
        (429, "GET .*/o"),
        (cloud_storage.RESET, "alt=media"),
        (cloud_storage.CORRUPT, "alt=media"),
        (cloud_storage.APPLIED, "POST /upload"),
    ):
        cloud.inject(fault, pattern)


def assert_faults_were_met(cloud):
    assert not cloud.pending
    cloud.heal()


@pytest.fixture
def bucket(workspace, cloud, bucket_name, tmp_path, monkeypatch):
    """A `gs://` URL with scans and weights; what is temporary goes apart."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    folder = buckets.Folder(f"gs://{bucket_name}")
    for path in (workspace / "scans").rglob("*.png"):
        folder.upload(str(path), str(path.relative_to(workspace)))
    folder.upload(str(workspace / "backbone.weights.h5"), "backbone.weights.h5")
    return f"gs://{bucket_name}"


def build_in_bucket(workspace, bucket, copy):
    runs.command(
        "trainer.data.build_records",
        f"--input_dir={bucket}/scans",
        f"--output_dir={bucket}/records",
    )
    local = workspace / "records"
    names = {path.name for path in local.iterdir() if path.is_file()}
    records = buckets.Folder(f"{bucket}/records")
    assert set(records.list()) == names
    records.download(records.list(), str(copy))
    assert filecmp.cmpfiles(local, copy, names, False)[1:] == ([], [])


def preempt_in_fine_tuning(run, arguments):
    process = processes.Command("trainer.task", *arguments)
    while not any("checkpoints/fine_tune/" in name for name in run.list()):
        assert process.poll() is None, process.read("stderr")
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == startup.PREEMPTED, error
    names = run.list()
    assert any(name.endswith(".index") for name in names)
    assert "_SUCCESS" not in names


def assert_same_run(copy, run):
    assert runs.weights_sha256(copy) == runs.weights_sha256(run)
    assert runs.history_without_timing(copy) == runs.history_without_timing(run)
    for name in ("predictions.csv", "metrics.json"):
        path = f"evaluation/{name}"
        assert (copy / path).read_text() == (run / path).read_text()


def test_run_in_a_bucket_that_is_preempted_is_the_same_run(
    workspace, cloud, bucket, tmp_path
):
    """Every path is gs://, and the disk is empty at each start.

    The first start streams the records.
    """
    inject_faults(cloud)
    build_in_bucket(workspace, bucket, tmp_path / "records")
    assert_faults_were_met(cloud)
    arguments = [
        f"--data_dir={bucket}/records",
        f"--job_dir={bucket}/run",
        f"--weights={bucket}/backbone.weights.h5",
        *runs.TRAIN_FLAGS,
    ]
    run = buckets.Folder(f"{bucket}/run")
    preempt_in_fine_tuning(run, ["--nostage_data", *arguments])
    assert not os.listdir(tmp_path / "scratch")
    inject_faults(cloud)
    # As a trial of a tuning job on Vertex AI.
    trial = {
        "AIP_MODEL_DIR": f"{bucket}/model/",
        "CLOUD_ML_TRIAL_ID": "3",
        "CLOUD_ML_HP_METRIC_FILE": str(tmp_path / "output.metrics"),
    }
    done = processes.run("trainer.task", *arguments, env=os.environ | trial)
    assert done.returncode == 0, done.stderr
    assert re.search("fine_tune (continues after|already)", done.stderr)
    assert_faults_were_met(cloud)
    assert not os.listdir(tmp_path / "scratch")
    names = run.list()
    assert "_SUCCESS" in names and not [n for n in names if "tmp" in n]
    run.download(names, str(tmp_path / "run"))
    assert_same_run(tmp_path / "run", workspace / "run")
    report = (tmp_path / "run/evaluation/report.html").read_text()
    assert f"{bucket}/records" in report
    assert str(tmp_path / "scratch") not in report
    judged = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert_reported(tmp_path / "output.metrics", judged)
    judge_in_bucket(bucket, judged)
    publish_and_ask(cloud, bucket, workspace)


def assert_reported(path, judged):
    """To the study of the trial, under the names of `metrics.json`."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    validation = judged["splits"]["validation"]["metrics"]
    assert {
        line["trial"]: float(line["roc_auc"])
        for line in lines
        if "roc_auc" in line
    } == {"3": pytest.approx(validation["roc_auc"]["value"])}


def judge_in_bucket(bucket, judged):
    runs.command(
        "serving.evaluate",
        f"--export={bucket}/model",
        f"--data_dir={bucket}/records",
        f"--output_dir={bucket}/again",
    )
    again = json.loads(paths.read_bytes(f"{bucket}/again/metrics.json"))
    for metric in ("log_loss", "brier"):
        values = [
            one["splits"]["test"]["metrics"][metric]["value"]
            for one in (again, judged)
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-5)


def publish_and_ask(cloud, bucket, workspace):
    cloud.inject(cloud_storage.APPLIED, "POST /upload")
    for _ in range(2):
        runs.command(
            "deploy.publish",
            f"--export_dir={bucket}/model",
            f"--model_base_path={bucket}/models",
        )
    assert_faults_were_met(cloud)
    published = buckets.Folder(f"{bucket}/models").list()
    assert {n.split("/")[0] for n in published} == {"1"}
    row = runs.read_predictions(workspace, "test")[0]
    with runs.serving_from(f"{bucket}/models") as targets:
        (answer,) = runs.ask(targets["rest"], [workspace / "scans" / row["id"]])
    assert answer["score"] == pytest.approx(float(row["score"]), abs=1e-5)


@pytest.mark.parametrize(
    ("module", "printed"),
    [
        ("trainer.data.inspect_records", "All shards are whole"),
        ("trainer.export.blessing", "run/export/1 is blessed"),
        ("serving.evaluate", "external/report.html"),
    ],
)
def test_documented_command_runs_beside_records_and_run(
    workspace, module, printed, tmp_path
):
    (tmp_path / "run").symlink_to(workspace / "run")
    for name in ("records", "records_from_elsewhere"):
        (tmp_path / name).symlink_to(workspace / "records")
    arguments = next(a for m, a in documentation.commands() if m == module)
    done = processes.run(module, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed=1"], r"belongs to a run with --seed=0 \(now 1\)"),
        (["--data_dir=absent"], r"absent/dataset\.json does not exist"),
        (["--weights=absent.h5"], r"--weights=absent\.h5"),
    ],
)
def test_wrong_start_is_one_sentence_and_damages_nothing(
    workspace, arguments, message
):
    before = runs.list_files(workspace / "run")
    error = runs.command(
        "trainer.task",
        *runs.train_arguments(workspace, "run"),
        *arguments,
        expect=1,
    )
    runs.assert_one_sentence(error, "trainer.task:", message)
    assert runs.list_files(workspace / "run") == before


def test_server_and_export_get_the_figures_of_the_run(
    workspace, server, tmp_path
):
    output = runs.command(
        "serving.evaluate",
        f"--target={server['rest']}",
        f"--compare={workspace / 'run/export'}",
        f"--data_dir={workspace / 'records'}",
        "--splits=test",
        f"--output_dir={tmp_path}",
    )
    assert "neither decides better (0 images are right by" in output
    with open(workspace / "run/evaluation/metrics.json") as file:
        of_run = json.load(file)["splits"]["test"]
    with open(tmp_path / "metrics.json") as file:
        found = json.load(file)["splits"]["test"]
    assert found["num_images"] == of_run["num_images"]
    # The backbone is random, so scores differ by less than a server's float32
    # tells: what ranks or decides may differ, what measures them may not.
    for name in ("log_loss", "brier"):
        for part in ("value", "interval"):
            assert found["metrics"][name][part] == pytest.approx(
                of_run["metrics"][name][part], abs=1e-5
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--export={}/absent"], "absent holds no exported version"),
        (["--export={}/damaged"], "damaged cannot be loaded"),
        (["--target=http://127.0.0.1:9"], "Is the server running"),
        ([], "Give --export or --target"),
        (["--export={}/run/export", "--prevalences=2"], "between 0 and 1"),
        (["--export={}/run/export", "--pixel_range=a"], "two numbers"),
    ],
)
def test_wrong_model_to_evaluate_is_one_sentence(workspace, arguments, message):
    (workspace / "damaged").mkdir(exist_ok=True)
    (workspace / "damaged/saved_model.pb").write_bytes(b"none")
    error = runs.command(
        "serving.evaluate",
        *(argument.format(workspace) for argument in arguments),
        f"--data_dir={workspace / 'records'}",
        f"--output_dir={workspace / 'external'}",
        expect=1,
    )
    runs.assert_one_sentence(error, "evaluate:", message)
    assert not (workspace / "external").exists()
