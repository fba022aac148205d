"""Drives the commands as a user would, over both protocols."""

import contextlib
import csv
import filecmp
import json
import os
import re
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import cloud_storage, processes, quick
from trainer import startup
from trainer.data import preprocessing
from trainer.storage import buckets, paths
from trainer.training import features

pytestmark = pytest.mark.slow

TRAIN_FLAGS = (
    "--image_size=32",
    "--global_batch_size=8",
    "--head_epochs=60",
    "--patience=60",
    "--feature_views=2",
    "--fine_tune_epochs=2",
    "--steps_per_execution=1",
)
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


def command(module, *arguments, expect=0):
    """Runs `python -m module` and returns its standard output."""
    done = processes.run(module, *arguments)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if expect else done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Scans, their records and a finished run."""
    directory = tmp_path_factory.mktemp("end_to_end")
    command(
        "trainer.data.sample_data",
        f"--output_dir={directory / 'scans'}",
        "--num_images=60",
        "--image_size=48",
    )
    command(
        "trainer.data.build_records",
        f"--input_dir={directory / 'scans'}",
        f"--output_dir={directory / 'records'}",
    )
    backbone = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    backbone.save_weights(directory / "backbone.weights.h5")
    command("trainer.task", *train_arguments(directory, "run"))
    return directory


def train_arguments(workspace, job_dir):
    return [
        f"--data_dir={workspace / 'records'}",
        f"--job_dir={workspace / job_dir}",
        f"--weights={workspace / 'backbone.weights.h5'}",
        *TRAIN_FLAGS,
    ]


def read_predictions(workspace, split):
    path = workspace / "run/evaluation/predictions.csv"
    with open(path, newline="") as file:
        return [r for r in csv.DictReader(file) if r["split"] == split]


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
        *train_arguments(workspace, "whole"),
        f"--weights={weights}",
        "--head_epochs=1",
        "--fine_tune_epochs=1",
        whole=True,
    )
    assert done.returncode == 0, done.stderr
    # The export gives the evaluated probabilities of all images.
    assert "export    blessed" in done.stderr
    with open(workspace / "whole/history.csv", newline="") as file:
        assert [row["phase"] for row in csv.DictReader(file)] == [
            "head",
            "fine_tune",
        ]


def test_every_image_is_predicted_exactly_once(workspace):
    with open(workspace / "records/dataset.json") as file:
        counts = json.load(file)["counts"]
    for split in ("validation", "test"):
        rows = read_predictions(workspace, split)
        assert len(rows) == sum(counts[split].values())
        assert len({row["id"] for row in rows}) == len(rows)
        for name, count in counts[split].items():
            assert sum(row["label"] == name for row in rows) == count


@contextlib.contextmanager
def serving_from(model_base_path):
    """Addresses of a local server on a base path."""
    process = processes.Command(
        "serving.local_server",
        f"--model_base_path={model_base_path}",
        "--model_name=classifier",
        "--port=0",
        "--rest_api_port=0",
    )
    line = process.read_line()
    targets = re.findall(r"(?:grpc|http)://[\d.]+:\d+", line)
    assert len(targets) == 2, line
    yield dict(zip(("grpc", "rest"), targets, strict=True))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def server(workspace):
    """Addresses of a local server on the exported model."""
    with serving_from(workspace / "run/export") as targets:
        yield targets


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_server_gives_the_evaluated_probability_of_every_test_image(
    workspace, server, protocol
):
    rows = read_predictions(workspace, "test")
    with open(workspace / "run/evaluation/metrics.json") as file:
        operating_point = json.load(file)["operating_point"]
    files = [workspace / "scans" / row["id"] for row in rows]
    output = command(
        "serving.predict",
        f"--target={server[protocol]}",
        "--model_name=classifier",
        "--json",
        *files,
    )
    answers = json.loads(output)
    answers = answers["predictions"] if isinstance(answers, dict) else answers
    assert len(answers) == len(rows)
    for answer, row in zip(answers, rows, strict=True):
        assert answer["file"].endswith(row["id"])
        assert answer["score"] == pytest.approx(float(row["score"]), abs=1e-5)
        assert answer["label"] == row["predicted"]
        # A score this near the operating point may round to either side.
        if abs(float(row["score"]) - operating_point) > 1e-5:
            assert answer["decision"] == (row["decision"] == "tumor")


def history_without_timing(job_dir):
    with open(job_dir / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("seconds", "images_per_second", "input_wait_share"):
            del row[name]
    return rows


def weights_sha256(job_dir):
    model = keras.models.load_model(
        job_dir / "medical_image_classifier.keras", compile=False
    )
    return features.weights_sha256(model)


def test_finished_run_started_again_exports_nothing_new(workspace):
    command("trainer.task", *train_arguments(workspace, "run"))
    assert os.listdir(workspace / "run/export") == ["1"]


def test_reloaded_keras_file_gives_the_evaluated_probabilities(workspace):
    run = workspace / "run"
    model = keras.models.load_model(run / "medical_image_classifier.keras")
    with open(run / "evaluation/metrics.json") as file:
        temperature = json.load(file)["temperature"]
    for row in read_predictions(workspace, "test")[:3]:
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


def test_run_in_a_bucket_that_is_preempted_is_the_same_run(
    workspace, cloud, bucket_name, tmp_path, monkeypatch
):
    """Every path is gs://, and the disk is empty at each start.

    The first start streams the records.
    """
    url = f"gs://{bucket_name}"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    folder = buckets.Folder(url)
    for path in (workspace / "scans").rglob("*.png"):
        folder.upload(str(path), str(path.relative_to(workspace)))
    folder.upload(str(workspace / "backbone.weights.h5"), "backbone.weights.h5")
    inject_faults(cloud)
    command(
        "trainer.data.build_records",
        f"--input_dir={url}/scans",
        f"--output_dir={url}/records",
    )
    assert_faults_were_met(cloud)
    local = workspace / "records"
    names = {path.name for path in local.iterdir() if path.is_file()}
    there = buckets.Folder(f"{url}/records")
    assert set(there.list()) == names
    there.download(there.list(), str(tmp_path / "records"))
    assert filecmp.cmpfiles(local, tmp_path / "records", names, False)[1:] == (
        [],
        [],
    )

    arguments = [
        f"--data_dir={url}/records",
        f"--job_dir={url}/run",
        f"--weights={url}/backbone.weights.h5",
        *TRAIN_FLAGS,
    ]
    process = processes.Command("trainer.task", "--nostage_data", *arguments)
    run = buckets.Folder(f"{url}/run")
    while not any("checkpoints/fine_tune/" in name for name in run.list()):
        assert process.poll() is None, process.read("stderr")
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == startup.PREEMPTED, error
    found = run.list()
    assert any(name.endswith(".index") for name in found)
    assert "_SUCCESS" not in found
    assert not os.listdir(scratch)

    inject_faults(cloud)
    done = processes.run("trainer.task", *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search("fine_tune (continues after|already)", done.stderr)
    assert_faults_were_met(cloud)
    assert not os.listdir(scratch)
    found = run.list()
    assert "_SUCCESS" in found and not [n for n in found if "tmp" in n]
    run.download(found, str(tmp_path / "run"))
    assert weights_sha256(tmp_path / "run") == weights_sha256(workspace / "run")
    assert history_without_timing(tmp_path / "run") == history_without_timing(
        workspace / "run"
    )
    for name in ("predictions.csv", "metrics.json"):
        path = f"run/evaluation/{name}"
        assert (tmp_path / path).read_text() == (workspace / path).read_text()
    report = (tmp_path / "run/evaluation/report.html").read_text()
    assert f"{url}/records" in report and str(scratch) not in report

    command(
        "serving.evaluate",
        f"--export={url}/run/export",
        f"--data_dir={url}/records",
        f"--output_dir={url}/again",
    )
    again = json.loads(paths.read_bytes(f"{url}/again/metrics.json"))
    mine = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    for metric in ("log_loss", "brier"):
        values = [
            one["splits"]["test"]["metrics"][metric]["value"]
            for one in (again, mine)
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-5)

    cloud.inject(cloud_storage.APPLIED, "POST /upload")
    for _ in range(2):
        command(
            "deploy.publish",
            f"--export_dir={url}/run/export",
            f"--model_base_path={url}/models",
        )
    assert_faults_were_met(cloud)
    published = buckets.Folder(f"{url}/models").list()
    assert {n.split("/")[0] for n in published} == {"1"}
    row = read_predictions(workspace, "test")[0]
    with serving_from(f"{url}/models") as targets:
        answers = json.loads(
            command(
                "serving.predict",
                f"--target={targets['rest']}",
                "--model_name=classifier",
                "--json",
                workspace / "scans" / row["id"],
            )
        )
    answers = answers["predictions"] if isinstance(answers, dict) else answers
    assert answers[0]["score"] == pytest.approx(float(row["score"]), abs=1e-5)


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
    before = sorted(
        (p, p.stat().st_mtime_ns, p.stat().st_size)
        for p in (workspace / "run").rglob("*")
        if p.is_file()
    )
    error = command(
        "trainer.task",
        *train_arguments(workspace, "run"),
        *arguments,
        expect=1,
    )
    lines = [
        line for line in error.splitlines() if line.startswith("trainer.task:")
    ]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    after = sorted(
        (p, p.stat().st_mtime_ns, p.stat().st_size)
        for p in (workspace / "run").rglob("*")
        if p.is_file()
    )
    assert after == before


def test_server_and_export_get_the_figures_of_the_run(
    workspace, server, tmp_path
):
    output = command(
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
    error = command(
        "serving.evaluate",
        *(argument.format(workspace) for argument in arguments),
        f"--data_dir={workspace / 'records'}",
        f"--output_dir={workspace / 'external'}",
        expect=1,
    )
    lines = [
        line for line in error.splitlines() if line.startswith("evaluate:")
    ]
    assert len(lines) == 1 and message in lines[0]
    assert not (workspace / "external").exists()
