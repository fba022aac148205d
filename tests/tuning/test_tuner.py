import dataclasses
import json

import numpy as np
import pytest

from trainer import config
from trainer.evaluation.results import Metric
from tuning import report, search_space, trial_log, tuner


@pytest.fixture
def sweep(data, tmp_path, monkeypatch):
    """A configuration and options of a sweep on `data`."""
    cfg = config.TrainConfig(
        data_dir="records", job_dir=str(tmp_path / "job"), head_epochs=4
    )
    options = tuner.SweepOptions(
        "random", 4, "roc_auc", 1, 0, dict(search_space.SPACE)
    )
    monkeypatch.setattr(tuner, "claim", lambda cfg, options: None)
    monkeypatch.setattr(tuner, "load_data", lambda cfg, options, _: data)
    return cfg, options


def test_failed_trial_is_told_and_the_sweep_goes_on(sweep, capsys, tmp_path):
    cfg, options = sweep
    real, calls = tuner.trial.run_trial, []

    def run_trial(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("The loss is not finite in epoch 1.\nAnd more.")
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner.trial, "run_trial", run_trial)
        settings = tuner.run(cfg, options)
    assert "failed" in capsys.readouterr().out
    rows = (tmp_path / "job/trials.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[2].startswith("1,FAILED")
    assert rows[2].endswith("The loss is not finite in epoch 1.")
    best = json.loads((tmp_path / "job" / tuner.BEST_FILE).read_text())
    assert best == json.loads(json.dumps(settings))
    config.TrainConfig(
        data_dir="d",
        job_dir="j",
        **{**best, "hidden_units": tuple(best["hidden_units"])},
    )


def test_no_successful_trial_is_one_sentence(sweep, tmp_path):
    cfg, options = sweep

    def run_trial(*arguments):
        raise ValueError("no luck")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner.trial, "run_trial", run_trial)
        with pytest.raises(
            ValueError, match=r"None of 4 trials succeeded \(no luck\): see "
        ):
            tuner.run(cfg, options)
    assert "no luck" in (tmp_path / "job/trials.csv").read_text()
    assert len(trial_log.read_events(cfg.job_dir)) == 8


def test_objective_that_is_to_be_low_is_minimized(sweep, tmp_path, capsys):
    cfg, options = sweep
    tuner.run(cfg, dataclasses.replace(options, objective="log_loss"))
    events = trial_log.read_events(cfg.job_dir)
    scores = {e["trial"]: e["score"] for e in events if "score" in e}
    best = min(scores, key=scores.get)
    assert f"trials is {best}: mean log_loss" in capsys.readouterr().out


def test_default_head_is_compared_with(sweep, capsys):
    cfg, options = sweep
    tuner.run(cfg, options)
    assert "The default head has " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (0.5, "the sweep found a better one."),
        (0.7, "may be better, but the interval does not show it."),
        (0.85, "beyond the luck of the"),
    ],
)
def test_verdict_judges_by_the_corrected_score(sweep, default, expected):
    _, options = sweep
    verdict = report.make_verdict(
        options,
        {"trial": "3", "score": 0.9},
        Metric(value=0.9, interval=(0.8, 1.0)),
        tuner.optimism.Estimate(0.8, [0.6, 0.95], 4),
        default,
    )
    text = " ".join(verdict)
    assert expected in text
    assert "0.900 (95 % interval 0.800 to 1.000)" in text
    assert "gives 0.800 (95 % interval 0.600 to 0.950)" in text


def test_logits_of_trials_are_kept(sweep, data):
    cfg, options = sweep
    tuner.run(cfg, options)
    for event in trial_log.read_events(cfg.job_dir):
        if "score" in event:
            path = f"{cfg.job_dir}/{tuner.LOGITS_DIR}/{event['trial']}.npy"
            assert np.load(path).shape == (len(data.judged), 1)
