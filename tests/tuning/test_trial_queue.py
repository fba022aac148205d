import json
import os
import time

import pytest

from tuning import search_space, trial_log, trial_queue


def make_queue(directory, oracle="random", max_trials=6, **overrides):
    arguments = {
        "hyperparameters": search_space.to_hyperparameters(search_space.SPACE),
        "objective": "roc_auc",
        "direction": "max",
        "max_trials": max_trials,
        "max_epochs": 9,
        "seed": 0,
        **overrides,
    }
    return trial_queue.TrialQueue(
        trial_queue.make_oracle(oracle, **arguments),
        trial_log.TrialLog(str(directory)),
    )


def score_of(values):
    """Some function of the hyperparameters."""
    return 1.0 - values["dropout"] * values["label_smoothing"]


def outcome_of(trial):
    return {
        "status": "COMPLETED",
        "score": score_of(trial.hyperparameters.values),
    }


def run(queue, worker="w", count=10**6):
    """Runs trials until there are no more; returns id and values of each."""
    done = []
    while len(done) < count:
        trial = queue.next_trial(worker)
        if trial.status != "RUNNING":
            assert trial.status == "STOPPED"
            break
        values = dict(trial.hyperparameters.values)
        queue.end_trial(trial.trial_id, outcome_of(trial))
        done.append((trial.trial_id, values))
    return done


@pytest.mark.parametrize("oracle", trial_queue.ORACLES)
def test_sweep_killed_at_any_trial_runs_the_same_trials_once(tmp_path, oracle):
    whole = run(make_queue(tmp_path / "whole", oracle))
    assert len({json.dumps(values) for _, values in whole}) > 3
    done = []
    for _ in range(3):
        queue = make_queue(tmp_path / "killed", oracle)
        done += run(queue, count=2)
        queue.next_trial("w")  # it was running when the kill came
    done += run(make_queue(tmp_path / "killed", oracle))
    assert done == whole
    events = make_queue(tmp_path / "killed", oracle).finished
    assert [e["trial"] for e in events] == [trial_id for trial_id, _ in whole]


def test_seed_decides_on_the_trials(tmp_path):
    first = run(make_queue(tmp_path / "a"))
    assert first == run(make_queue(tmp_path / "b"))
    assert first != run(make_queue(tmp_path / "c", seed=1))


def test_more_trials_go_on_where_fewer_ended(tmp_path):
    few = run(make_queue(tmp_path / "few", max_trials=4))
    more = run(make_queue(tmp_path / "few", max_trials=7))
    assert len(few) == 4
    assert len(more) == 3
    assert few + more == run(make_queue(tmp_path / "whole", max_trials=7))


def test_line_torn_by_a_kill_is_dropped(tmp_path):
    queue = make_queue(tmp_path)
    done = run(queue, count=2)
    with open(tmp_path / trial_log.LOG_FILE, "a") as file:
        file.write('{"event": "ended", "tri')
    assert len(make_queue(tmp_path).finished) == 2
    rest = run(make_queue(tmp_path))
    assert len(done + rest) == 6


def test_damaged_log_is_refused_in_a_sentence(tmp_path):
    (tmp_path / trial_log.LOG_FILE).write_text("{}}\n")
    with pytest.raises(ValueError, match=r"trials\.jsonl is damaged"):
        make_queue(tmp_path)


def test_failed_trials_are_kept_with_their_reason_and_end_nothing(tmp_path):
    queue = make_queue(tmp_path)
    for _ in range(6):
        trial = queue.next_trial("w")
        queue.end_trial(
            trial.trial_id, {"status": "FAILED", "message": "no luck"}
        )
    assert queue.next_trial("w").status == "STOPPED"
    finished = make_queue(tmp_path).finished
    assert [e["message"] for e in finished] == ["no luck"] * 6


def test_trial_of_a_silent_worker_goes_to_another(tmp_path):
    queue = make_queue(tmp_path, max_trials=2)
    lost, other = queue.next_trial("a"), queue.next_trial("b")
    time.sleep(0.05)
    queue.saw("b")
    assert queue.release_silent(0.04) == ["a"]
    queue.end_trial(other.trial_id, outcome_of(other))
    again = queue.next_trial("b")
    assert again.trial_id == lost.trial_id
    assert again.hyperparameters.values == lost.hyperparameters.values
    # Nobody else may go before the last one has ended: "b" may die too.
    assert queue.next_trial("c").status == "IDLE"
    assert queue.end_trial(again.trial_id, outcome_of(again))
    # The worker was slow and not dead: its result comes too late.
    assert not queue.end_trial(lost.trial_id, outcome_of(lost))
    assert queue.next_trial("c").status == "STOPPED"
    assert len(make_queue(tmp_path, max_trials=2).finished) == 2


def test_log_on_a_full_disk_keeps_what_is_there(tmp_path):
    queue = make_queue(tmp_path)
    run(queue, count=1)
    os.rename(tmp_path / trial_log.LOG_FILE, tmp_path / "kept")
    os.symlink("/dev/full", tmp_path / trial_log.LOG_FILE)
    with pytest.raises(OSError):
        run(queue, count=1)
    os.replace(tmp_path / "kept", tmp_path / trial_log.LOG_FILE)
    assert len(make_queue(tmp_path).finished) == 1
