"""keras-tuner's oracles, which say what to try next, asked one trial at a time.

keras-tuner keeps an oracle in files that a kill can tear. Here the log is the
truth, and those files are thrown away: a new start tells the trials of the log
to a fresh oracle, which is then where the old one was.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator

import keras_tuner
from keras_tuner.engine import base_tuner

from tuning import objectives, trial_log

_ORACLES = {
    "random": keras_tuner.oracles.RandomSearchOracle,
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "grid": keras_tuner.oracles.GridSearchOracle,
    "hyperband": keras_tuner.oracles.HyperbandOracle,
}
_ASKER = "sweep"


def make_oracle(
    name: str,
    hyperparameters: keras_tuner.HyperParameters,
    objective: str,
    max_trials: int,
    max_epochs: int,
    seed: int,
) -> keras_tuner.Oracle:
    """A fresh oracle.

    Args:
        name: random, bayesian, hyperband or grid.
        hyperparameters: the space, all of it.
        objective: name of the metric.
        max_trials: of hyperband, their number follows from the epochs.
        max_epochs: of a trial of hyperband.
        seed: of the draws.
    """
    direction = objectives.direction(objective)
    size = {"max_trials": max_trials}
    if name == "hyperband":
        size = {"max_epochs": max_epochs}
    oracle = _ORACLES[name](
        objective=keras_tuner.Objective(objective, direction),
        hyperparameters=hyperparameters,
        # keras-tuner takes 0 for no seed.
        seed=seed + 1,
        # Any number of failed trials in a row is told, not fatal.
        max_consecutive_failed_trials=sys.maxsize,
        **size,
    )
    oracle.verbose = 0
    return oracle


def check_hyperband(oracle: keras_tuner.Oracle, max_epochs: int) -> None:
    """Plays a fresh oracle's trials through, until one trains to the end.

    Raises:
        ValueError: if the space has too few combinations for that: hyperband
            would run them all for a part of the epochs, and promote none.
    """
    with tempfile.TemporaryDirectory() as scratch:
        base_tuner.BaseTuner(oracle, directory=scratch)
        while (trial := oracle.create_trial(_ASKER)).status == "RUNNING":
            if trial.hyperparameters.values["tuner/epochs"] == max_epochs:
                return
            oracle.update_trial(trial.trial_id, {oracle.objective.name: 0.0})
            trial.status = "COMPLETED"
            oracle.end_trial(trial)
    raise ValueError(
        f"The space has too few combinations ({len(oracle.trials)} were found) "
        "for --oracle=hyperband to train one of them for all of "
        f"--head_epochs={max_epochs}: use --oracle=grid, which tries them all, "
        "or widen --search_space."
    )


def run_trials(
    oracle: keras_tuner.Oracle,
    log: trial_log.TrialLog,
    run: Callable[[str, dict], trial_log.EndedTrial],
) -> Iterator[trial_log.EndedTrial]:
    """Runs the trials that a log lacks, and adds each to it.

    Args:
        oracle: a fresh one.
        log: of the sweep so far.
        run: of a trial's id and hyperparameters.

    Yields:
        The trials that were run, each when it is in the log.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # A tuner gives its oracle a place for files; here it does no more.
        base_tuner.BaseTuner(oracle, directory=scratch)
        logged = list(log.trials)
        while (trial := oracle.create_trial(_ASKER)).status == "RUNNING":
            if logged:
                ended = logged.pop(0)
            else:
                ended = run(trial.trial_id, dict(trial.hyperparameters.values))
                log.append(ended)
                yield ended
            # What was tried is what counts, should another version of
            # keras-tuner draw other values.
            trial.hyperparameters.values = dict(ended.values)
            trial.status, trial.message = ended.status, ended.message
            if ended.score is not None:
                scores = {oracle.objective.name: ended.score}
                oracle.update_trial(trial.trial_id, scores)
            oracle.end_trial(trial)
