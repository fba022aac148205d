"""`tuning.task` as its user runs it: whole sweeps, killed and in a bucket."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import signal
import time

import numpy as np
import pytest

from tests import processes, quick
from tests.samples import make_strategy, write_backbone
from trainer import config
from trainer.storage import buckets
from tuning import search_space, sweep_data, trial_log, tuner

SETTINGS = {"image_size": 32, "head_epochs": 6, "feature_views": 2}
NUM_TRIALS = 20


@pytest.fixture(scope="module", autouse=True)
def few_blocks():
    """The backbone that commands get which only train."""
    with quick.few_kinds():
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Weights and a space, and later the job directories of sweeps."""
    directory = tmp_path_factory.mktemp("sweeps")
    write_backbone(directory / "backbone.weights.h5", quick.FEW_KINDS)
    # One graph for all heads.
    (directory / "space.json").write_text(
        '{"num_hidden_layers": 1, "head_batch_norm": true}'
    )
    return directory


def configure(data_dir, workspace, name, **settings):
    return config.TrainConfig(
        data_dir=str(data_dir),
        job_dir=str(workspace / name),
        weights=str(workspace / "backbone.weights.h5"),
        strategy="one_device",
        **SETTINGS | settings,
    )


def make_options(workspace, depths=()):
    space = search_space.read_space(str(workspace / "space.json"))
    del space[search_space.DEPTH]
    return tuner.SweepOptions(
        "random", NUM_TRIALS, "roc_auc", 1, 0, space, depths
    )


@pytest.fixture(scope="module")
def whole(data_dir, workspace):
    """What a sweep prints that nothing happens to, with a second stage."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        tuner.run(
            configure(data_dir, workspace, "whole", fine_tune_epochs=1),
            make_options(workspace, depths=(0,)),
        )
    return output.getvalue()


def start_sweep(data_dir, job_dir, workspace):
    return processes.Command(
        "tuning.task",
        f"--data_dir={data_dir}",
        f"--job_dir={job_dir}",
        f"--weights={workspace / 'backbone.weights.h5'}",
        f"--search_space={workspace / 'space.json'}",
        f"--max_trials={NUM_TRIALS}",
        *(f"--{name}={value}" for name, value in SETTINGS.items()),
    )


def read_trials(job_dir):
    """The trials of a log, without the time that they took."""
    return [
        dataclasses.replace(t, seconds=0.0)
        for t in trial_log.TrialLog(str(job_dir)).trials
    ]


def wait_for_trials(job_dir, count, process):
    log = job_dir / trial_log.LOG_FILE
    deadline = time.monotonic() + 300
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.read("stderr")
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_sweep_leaves_its_result_and_says_how_far_to_trust_it(whole, workspace):
    trials = read_trials(workspace / "whole")
    assert [t.status for t in trials] == ["COMPLETED"] * NUM_TRIALS
    best = max(t.score for t in trials)
    page = (workspace / "whole/sweep.html").read_text()
    for text in (page, whole):
        assert f"mean roc_auc {best:.3f} on the validation split" in text
        assert "so this is too good" in text
        assert "The test split was not touched" in text
        assert "Second stage, roc_auc on the validation split" in text
    assert "<script" not in page and "http" not in page.split("</style>")[1]
    picture = (workspace / "whole/sweep.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert " 19/20 " in whole
    assert (workspace / "whole/_SUCCESS").exists()


@pytest.mark.slow
def test_run_with_the_result_repeats_the_validation_of_the_best_trial(
    whole, workspace
):
    best = max(read_trials(workspace / "whole"), key=lambda t: t.score)
    run = workspace / f"whole/second_stage/trial-{best.trial_id}-blocks-0"
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    loss = best.metrics["log_loss"]
    assert metrics["log_loss"] == pytest.approx(loss, rel=1e-2)
    with open(run / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    # The epoch that was kept: the lowest loss, unless none was low enough.
    kept = min(history, key=lambda row: float(row["val_loss"]))
    if best.num_epochs:
        assert int(kept["epoch"]) == best.num_epochs
        assert float(kept["val_auc"]) == best.score


@pytest.mark.slow
def test_sweep_killed_and_started_again_runs_the_same_trials_once(
    whole, data_dir, workspace, capsys
):
    job_dir = workspace / "killed"
    process = start_sweep(data_dir, job_dir, workspace)
    wait_for_trials(job_dir, 3, process)
    process.kill()
    process.communicate()
    killed = read_trials(job_dir)
    process = start_sweep(data_dir, job_dir, workspace)
    wait_for_trials(job_dir, len(killed) + 2, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.strip().splitlines()[-1].startswith("tuning.task: stopped;")
    assert "Traceback" not in error
    count = len(read_trials(job_dir))
    settings = tuner.run(
        configure(data_dir, workspace, "killed"), make_options(workspace)
    )
    told = capsys.readouterr().out
    assert told.startswith(f"{count} trials are finished already.\n    trial")
    assert f" {count:02}/20 " in told and f" {count - 1:02}/20 " not in told
    assert read_trials(job_dir) == read_trials(workspace / "whole")
    best = json.loads((workspace / "whole" / tuner.BEST_FILE).read_text())
    # Of the second stage.
    assert best.pop("fine_tune_epochs") == 0
    assert best == settings


@pytest.mark.slow
def test_sweep_in_a_bucket_is_the_sweep_on_a_disk(
    whole, data_dir, workspace, cloud, bucket_name
):
    url = f"gs://{bucket_name}"
    records = buckets.Folder(f"{url}/records")
    for path in data_dir.glob("*.*"):
        records.upload(str(path), path.name)
    process = start_sweep(f"{url}/records", f"{url}/sweep", workspace)
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert f"{url}/sweep/best_hyperparameters.json is for" in output
    sweep = buckets.Folder(f"{url}/sweep")
    names = sweep.list()
    assert {"_SUCCESS", "sweep.html", "best_hyperparameters.json"} <= set(names)
    sweep.download(names, str(workspace / "bucket"))
    assert read_trials(workspace / "bucket") == read_trials(workspace / "whole")


@pytest.mark.slow
def test_folds_are_of_whole_groups_and_of_the_cached_features(
    whole, data_dir, workspace
):
    cfg = configure(data_dir, workspace, "folds")
    strategy = make_strategy("one_device")
    plain = sweep_data.load(cfg, strategy, (0.0, 1.0), 0)
    assert (plain.class_names[plain.positive_index], len(plain.labels)) == (
        *("no_tumor", 52),
    )
    assert [len(plain.views[s]) for s in (0.0, 1.0)] == [1, 2]
    folded = sweep_data.load(cfg, strategy, (0.0,), 3)
    assert [len(v) for v in plain.views[1.0] + folded.views[0.0]] == [
        *(22, 22, 52),
    ]
    np.testing.assert_array_equal(folded.features[22:], plain.features)
    np.testing.assert_array_equal(folded.judged, np.arange(52))
    for train, judged in folded.folds:
        assert sorted([*train, *judged]) == list(range(52))
        assert set(folded.labels[judged]) == {0, 1}
    with pytest.raises(ValueError, match="--num_folds=27 needs as many groups"):
        sweep_data._cut_folds(folded.labels, folded.groups, 27, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights=none"], "--weights must not be none"),
        (["--num_folds=1"], "--num_folds must be 0 or at least 2"),
        (["--second_stage", "--fine_tune_epochs=0"], "must be positive"),
        ([f"--search_space={__file__}"], "is not JSON"),
        (["--search_space=absent.json"], "absent.json"),
        (["--data_dir=absent"], "absent"),
    ],
)
def test_wrong_start_is_one_sentence(tmp_path, arguments, message):
    job_dir = f"--job_dir={tmp_path}/job"
    done = processes.run("tuning.task", "--data_dir=d", job_dir, *arguments)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tuning.task: ") and message in last
    assert "Traceback" not in done.stderr
    assert not os.path.exists(tmp_path / "job")
