"""`tuning.task` as its user runs it: whole sweeps in processes."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, TRAIN_ONLY, write_backbone, write_records
from trainer.storage import buckets

pytestmark = pytest.mark.slow
NUM_TRIALS = 16


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Records, weights, and a sweep that nothing happened to."""
    directory = tmp_path_factory.mktemp("sweep")
    (directory / "records").mkdir()
    write_records(
        directory / "records", {"train": 22, "validation": 9, "test": 7}
    )
    write_backbone(directory / "backbone.weights.h5")
    process = start(directory, "whole")
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    (directory / "output.txt").write_text(output)
    return directory


def start(workspace, job_dir, *arguments):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tuning.task",
            f"--data_dir={workspace / 'records'}",
            f"--job_dir={workspace / job_dir}",
            f"--weights={workspace / 'backbone.weights.h5'}",
            "--image_size=32",
            "--head_epochs=6",
            "--feature_views=2",
            f"--max_trials={NUM_TRIALS}",
            *arguments,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_trials(workspace, job_dir):
    with open(workspace / job_dir / "trials.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["trial"])
    for row in rows:
        del row["seconds"]
    return rows


def read_ended(workspace, job_dir):
    """Trials of the log that have ended, in their order."""
    path = workspace / job_dir / "trials.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [json.loads(line)["trial"] for line in lines if '"ended"' in line]


def wait_for_trials(workspace, job_dir, count, process):
    deadline = time.monotonic() + 300
    while len(read_ended(workspace, job_dir)) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sweep_leaves_its_result_and_says_how_far_to_trust_it(workspace):
    rows = read_trials(workspace, "whole")
    assert len(rows) == NUM_TRIALS
    assert {row["status"] for row in rows} == {"COMPLETED"}
    best = max(float(row["score"]) for row in rows)
    page = (workspace / "whole/sweep.html").read_text()
    output = (workspace / "output.txt").read_text()
    for text in (page, output):
        assert f"mean roc_auc {best:.3f} on the validation split" in text
        assert "so this is too good" in text
        assert "The test split was not touched" in text
    assert "<script" not in page and "http" not in page.split("</style>")[1]
    picture = (workspace / "whole/sweep.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert f"{NUM_TRIALS - 1}/{NUM_TRIALS}" in output


def test_run_with_the_result_repeats_the_validation_of_the_best_trial(
    workspace,
):
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            TRAIN_ONLY,
            "1",
            f"--data_dir={workspace / 'records'}",
            f"--job_dir={workspace / 'run'}",
            f"--weights={workspace / 'backbone.weights.h5'}",
            f"--hparams={workspace / 'whole/best_hyperparameters.json'}",
            "--fine_tune_epochs=0",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    # The features were in the cache already.
    assert "features  of" not in process.stderr
    rows = read_trials(workspace, "whole")
    best = max(rows, key=lambda row: float(row["score"]))
    with open(workspace / "run/history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    # The epoch that was kept: the lowest loss, unless none was low enough.
    kept = min(history, key=lambda row: float(row["val_loss"]))
    if int(float(best["num_epochs"])):
        assert int(kept["epoch"]) == int(float(best["num_epochs"]))
        assert float(kept["val_auc"]) == pytest.approx(float(best["score"]))


def test_sweep_killed_and_started_again_runs_the_same_trials_once(workspace):
    process = start(workspace, "killed")
    wait_for_trials(workspace, "killed", 5, process)
    process.kill()
    process.communicate()
    # A shell lets what it runs in the background ignore Ctrl-C, these tests
    # too, and processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(workspace, "killed")
    wait_for_trials(workspace, "killed", 9, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.strip().splitlines()[-1].startswith("tuning.task: stopped;")
    process = start(workspace, "killed")
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    ended = read_ended(workspace, "killed")
    assert sorted(ended) == sorted(set(ended))
    assert read_trials(workspace, "killed") == read_trials(workspace, "whole")


def test_sweep_in_a_bucket_is_the_sweep_on_a_disk(
    workspace, cloud, bucket_name
):
    url = f"gs://{bucket_name}"
    records = buckets.Folder(f"{url}/records")
    for path in (workspace / "records").glob("*.*"):
        records.upload(str(path), path.name)
    process = start(
        workspace,
        "unused",
        f"--data_dir={url}/records",
        f"--job_dir={url}/sweep",
    )
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert not (workspace / "unused").exists()
    sweep = buckets.Folder(f"{url}/sweep")
    names = sweep.list()
    assert {"_SUCCESS", "sweep.html", "best_hyperparameters.json"} <= set(names)
    sweep.download(names, str(workspace / "bucket"))
    assert read_trials(workspace, "bucket") == read_trials(workspace, "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective=fame"], "--objective must be one of accuracy, average"),
        (["--seed=3"], "belongs to a sweep with another config: give the same"),
        (["--oracle=grid"], "belongs to a sweep with another oracle"),
        (["--weights=none"], "--weights must not be none"),
    ],
)
def test_wrong_start_is_one_sentence_and_loses_nothing(
    workspace, arguments, message
):
    before = (workspace / "whole/trials.jsonl").read_bytes()
    process = start(workspace, "whole", *arguments)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    last = error.strip().splitlines()[-1]
    assert last.startswith("tuning.task: ") and message in last
    assert "Traceback" not in error
    assert (workspace / "whole/trials.jsonl").read_bytes() == before


def test_second_stage_chooses_how_deep_to_fine_tune(workspace):
    space = workspace / "depths.json"
    space.write_text('{"fine_tune_blocks": [0, 1]}')
    before = read_ended(workspace, "whole")
    process = start(
        workspace,
        "whole",
        "--second_stage",
        "--fine_tune_epochs=1",
        f"--search_space={space}",
    )
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert read_ended(workspace, "whole") == before
    assert "Second stage, roc_auc on the validation split" in output
    page = (workspace / "whole/sweep.html").read_text()
    assert "how deep to fine-tune" in page and "blocks fine-tuned (0:" in page
    best = json.loads(
        (workspace / "whole/best_hyperparameters.json").read_text()
    )
    chosen = int(output.split("): ")[1].split(" is best")[0])
    assert best["fine_tune_epochs"] == (1 if chosen else 0)
    assert best.get("fine_tune_blocks", 0) == chosen
