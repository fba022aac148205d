import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest

from trainer import config
from trainer.evaluation.results import Metric
from tuning import optimism, report, search_space, trial_log, tuner


def read_trials(cfg):
    return trial_log.TrialLog(cfg.job_dir).trials


def read_rows(tmp_path):
    with open(tmp_path / "job" / report.TRIALS_FILE, newline="") as file:
        return list(csv.DictReader(file))


def break_trials(monkeypatch, errors):
    """Makes some of the trials raise an error, by their number."""
    run_trial, numbers = tuner.trial.run_trial, itertools.count()

    def run_or_raise(*arguments):
        error = errors.get(next(numbers))
        if error:
            raise error
        return run_trial(*arguments)

    monkeypatch.setattr(tuner.trial, "run_trial", run_or_raise)


def test_broken_trial_is_told_and_the_sweep_goes_on(
    sweep, capsys, tmp_path, monkeypatch
):
    cfg, options = sweep
    error = ValueError("The loss is not finite.\nAnd more.")
    break_trials(monkeypatch, {1: error, 2: MemoryError()})
    settings = tuner.run(cfg, options)
    told = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in told[2:4]] == [
        ["1/4", "failed"],
        ["2/4", "failed"],
    ]
    assert told[5].startswith("The best of 2 trials is")
    rows = read_rows(tmp_path)
    assert list(rows[0])[:5] == [
        *("trial", "status", "score", "seconds", "num_epochs")
    ]
    assert {*search_space.SPACE, "roc_auc", "message"} < set(rows[0])
    assert [(row["status"], row["message"]) for row in rows] == [
        ("COMPLETED", ""),
        ("FAILED", "The loss is not finite."),
        ("FAILED", "MemoryError"),
        ("COMPLETED", ""),
    ]
    page = (tmp_path / "job" / report.PAGE_FILE).read_text()
    assert page.count('<tr class="failed">') == 2
    assert page.count('<tr class="best">') == 1
    best = json.loads((tmp_path / "job" / tuner.BEST_FILE).read_text())
    assert best == settings
    hidden_units = tuple(best.pop("hidden_units"))
    config.TrainConfig("d", "j", hidden_units=hidden_units, **best)


def test_time_left_goes_by_the_trials_of_this_start(sweep, capsys, monkeypatch):
    clock = iter([100.0, 190.0])
    monkeypatch.setattr(report.time, "monotonic", lambda: next(clock))
    table = report.LiveTable(sweep[1], num_before=2)
    table.show_last([trial_log.EndedTrial(n, {}, 7.0, 0.5) for n in "012"])
    first, _, row = capsys.readouterr().out.splitlines()
    assert first == "2 trials are finished already."
    assert row.split() == ["2/4", "0.5000", "0.5000", "7.00", "1:30"]


def test_no_successful_trial_is_one_sentence(sweep, tmp_path, monkeypatch):
    cfg, options = sweep
    break_trials(monkeypatch, dict.fromkeys(range(4), ValueError("no luck")))
    with pytest.raises(
        ValueError, match=r"None of 4 trials succeeded \(no luck\): see "
    ):
        tuner.run(cfg, options)
    assert [row["message"] for row in read_rows(tmp_path)] == ["no luck"] * 4


@pytest.mark.parametrize(
    ("objective", "choose"), [("log_loss", min), ("roc_auc", max)]
)
def test_best_trial_goes_by_the_objective_and_is_judged(
    sweep, data, capsys, tmp_path, objective, choose
):
    cfg, options = sweep
    options = dataclasses.replace(options, objective=objective)
    tuner.run(cfg, options)
    trials = read_trials(cfg)
    scores = [t.metrics[objective] for t in trials]
    assert len(set(scores)) > 1
    told = capsys.readouterr().out
    best = scores.index(choose(scores))
    assert f"trials is {best}: mean {objective} {choose(scores):.3f} " in told
    assert told.splitlines()[4].split()[2] == f"{choose(scores):.4f}"
    default = tuner.trial.run_trial(vars(cfg), 1.0, data, [0], objective)
    assert f"default head has {default.metrics[objective]:.3f} on" in told
    for t in trials:
        path = tmp_path / "job" / tuner.LOGITS_DIR / f"{t.trial_id}.npy"
        metrics = data.metrics(data.judged, np.load(path))
        assert metrics == pytest.approx(t.metrics, nan_ok=True)


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (0.5, "the sweep found a better one."),
        (0.7, "may be better, but the interval does not show it."),
        (0.85, "beyond the luck of the"),
    ],
)
@pytest.mark.parametrize("objective", ["roc_auc", "log_loss"])
def test_verdict_judges_by_the_corrected_score(
    sweep, default, expected, objective
):
    _, options = sweep

    def flip(score):
        return score if objective == "roc_auc" else 1.0 - score

    interval = sorted((flip(0.6), flip(0.95)))
    verdict = report.make_verdict(
        dataclasses.replace(options, objective=objective),
        4,
        trial_log.EndedTrial("3", {}, 1.0, 0.9),
        Metric(value=0.9, interval=(0.8, 1.0)),
        optimism.Estimate(flip(0.8), interval),
        flip(default),
    )
    text = " ".join(verdict)
    assert expected in text
    assert "0.900 (95 % interval 0.800 to 1.000)" in text
    low, high = interval
    assert (
        f"gives {flip(0.8):.3f} (95 % interval {low:.3f} to {high:.3f})" in text
    )


@pytest.mark.parametrize(
    ("cfg_changes", "option_changes", "message"),
    [
        ({}, {"objective": "fame"}, "--objective must be one of accuracy, "),
        ({"seed": 3}, {}, "belongs to a sweep with another config: give the"),
        ({}, {"oracle": "grid"}, "sweep with another oracle: give"),
        ({}, {"num_folds": 2}, "sweep with another num_folds"),
        ({}, {"max_trials": 9, "depths": (0,)}, ""),
        ({"fine_tune_blocks": 7}, {}, ""),
    ],
)
def test_job_directory_belongs_to_one_sweep(
    sweep, cfg_changes, option_changes, message
):
    cfg, options = sweep
    tuner.claim(cfg, options)
    cfg = dataclasses.replace(cfg, **cfg_changes)
    options = dataclasses.replace(options, **option_changes)
    if not message:
        tuner.claim(cfg, options)
        return
    with pytest.raises(ValueError, match=message):
        tuner.claim(cfg, options)
