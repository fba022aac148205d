import os

import pytest

from tuning import objectives, oracles, search_space, trial_log

# Few enough that the last trial of the bayesian oracle is not drawn at random.
SPACE = {
    name: search_space.SPACE[name] for name in ("dropout", "label_smoothing")
}


def run_one(trial_id, values):
    """A trial whose score is some function of the hyperparameters."""
    score = 1.0 - (values["dropout"] - 0.3) ** 2 * values["label_smoothing"]
    return trial_log.EndedTrial(trial_id, values, 0.5, score)


def make_oracle(name, max_trials=7, objective="roc_auc", seed=0):
    return oracles.make_oracle(
        name,
        search_space.to_hyperparameters(SPACE),
        objective,
        max_trials,
        max_epochs=4,
        seed=seed,
    )


def search(directory, name="random", run=run_one, **arguments):
    """The trials that are run on top of a directory's log."""
    log = trial_log.TrialLog(str(directory))
    return list(oracles.run_trials(make_oracle(name, **arguments), log, run))


@pytest.mark.parametrize("name", ["random", "bayesian", "hyperband", "grid"])
def test_sweep_killed_at_any_moment_runs_the_same_trials_once(tmp_path, name):
    whole = search(tmp_path / "whole", name)
    assert len({tuple(t.values.items()) for t in whole}) == len(whole) >= 7
    content = (tmp_path / "whole" / trial_log.LOG_FILE).read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    # A kill leaves whole lines, or a part of the last one.
    for kill in (40, ends[2] - 1, ends[-2]):
        (tmp_path / str(kill)).mkdir()
        log = tmp_path / str(kill) / trial_log.LOG_FILE
        log.write_bytes(content[:kill])
        run = search(tmp_path / str(kill), name)
        assert run == whole[content[:kill].count(b"\n") :]
        assert log.read_bytes() == content


@pytest.mark.parametrize("objective", ["roc_auc", "log_loss"])
def test_hyperband_trains_on_what_is_best(tmp_path, objective):
    trials = search(tmp_path, "hyperband", objective=objective)
    first, second = (
        [
            t
            for t in trials
            if (t.values["tuner/bracket"], t.values["tuner/round"])
            == (1, number)
        ]
        for number in (0, 1)
    )
    first.sort(key=lambda t: t.score, reverse=objective == "roc_auc")
    assert 0 < len(second) < len(first)
    assert {t.values["tuner/trial_id"] for t in second} == {
        t.trial_id for t in first[: len(second)]
    }


@pytest.mark.parametrize("num_combinations", [9, 60])
def test_hyperband_without_enough_to_promote_is_refused(num_combinations):
    values = tuple(i / 100 for i in range(num_combinations // 3))
    space = {
        "dropout": search_space.Choice(values),
        "label_smoothing": search_space.Choice((0.0, 0.1, 0.2)),
    }
    hyperparameters = search_space.to_hyperparameters(space)
    oracle = oracles.make_oracle(
        "hyperband", hyperparameters, "brier", 1, 40, 0
    )
    if num_combinations == 60:
        oracles.check_hyperband(oracle, 40)
        return
    with pytest.raises(
        ValueError, match=r"has too few combinations .* use --oracle=grid"
    ):
        oracles.check_hyperband(oracle, 40)


def test_seed_decides_on_the_trials(tmp_path):
    first = search(tmp_path / "a")
    assert first == search(tmp_path / "b")
    assert first != search(tmp_path / "c", seed=1)


@pytest.mark.parametrize(
    ("name", "number", "greater"),
    [("random", 9, 11), ("bayesian", 6, 7), ("grid", 9, 11)],
)
def test_number_of_trials_may_change(tmp_path, name, number, greater):
    few = search(tmp_path / "few", name, max_trials=number)
    more = search(tmp_path / "few", name, max_trials=greater)
    whole = search(tmp_path / "whole", name, max_trials=greater)
    assert [t.values for t in few + more] == [t.values for t in whole]
    assert len({int(t.trial_id) for t in few + more}) == greater
    assert search(tmp_path / "few", name, max_trials=5) == []


def test_what_was_tried_counts_and_not_what_would_be_drawn_today(tmp_path):
    tried = search(tmp_path, max_trials=3)
    log = trial_log.TrialLog(str(tmp_path))
    oracle = make_oracle("random", seed=1)
    assert len(list(oracles.run_trials(oracle, log, run_one))) == 4
    assert log.trials[:3] == tried
    for t in log.trials:
        told = oracle.get_trial(t.trial_id)
        assert (told.hyperparameters.values, told.score) == (t.values, t.score)


def test_failed_trials_are_kept_with_their_reason_and_end_nothing(tmp_path):
    def fail(trial_id, values):
        return trial_log.EndedTrial(trial_id, values, 0.5, message="no luck")

    assert len(search(tmp_path, run=fail)) == 7
    assert search(tmp_path) == []
    for t in trial_log.TrialLog(str(tmp_path)).trials:
        assert (t.status, t.message) == ("FAILED", "no luck")


@pytest.mark.parametrize("line", ["{}}", "[]", '{"event": "started"}'])
def test_damaged_log_is_refused_in_a_sentence(tmp_path, line):
    (tmp_path / trial_log.LOG_FILE).write_text(line + "\n")
    with pytest.raises(ValueError, match=r"trials\.jsonl is damaged"):
        trial_log.TrialLog(str(tmp_path))


def test_log_on_a_full_disk_keeps_what_is_there(tmp_path):
    (tried,) = search(tmp_path, max_trials=1)
    log = trial_log.TrialLog(str(tmp_path))
    os.rename(tmp_path / trial_log.LOG_FILE, tmp_path / "kept")
    os.symlink("/dev/full", tmp_path / trial_log.LOG_FILE)
    with pytest.raises(OSError):
        list(oracles.run_trials(make_oracle("random"), log, run_one))
    os.replace(tmp_path / "kept", tmp_path / trial_log.LOG_FILE)
    assert trial_log.TrialLog(str(tmp_path)).trials == [tried]


def test_errors_are_minimised_and_all_else_is_maximised():
    names = objectives.metric_names(2)
    errors = [n for n in names if objectives.direction(n) == "min"]
    assert errors == ["brier", "expected_calibration_error", "log_loss"]
    assert {objectives.sign(n) for n in errors} == {-1}
