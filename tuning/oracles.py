"""keras-tuner's oracles, which say what to try next, asked one trial at a time.

keras-tuner keeps an oracle in files that a kill can tear. Here the log is the
truth, and those files are thrown away: a new start tells the trials of the log
to a fresh oracle, which is then where the old one was.
"""

import tempfile
from collections.abc import Callable, Iterator

import keras_tuner
from keras_tuner.engine import base_tuner

from tuning import trial_log

_ORACLES = {
    "random": keras_tuner.oracles.RandomSearchOracle,
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "grid": keras_tuner.oracles.GridSearchOracle,
    "hyperband": keras_tuner.oracles.HyperbandOracle,
}
_ASKER = "sweep"
# Many failed trials in a row are told, not fatal.
_ANY_NUMBER = 10**9


def make_oracle(
    name: str,
    hyperparameters: keras_tuner.HyperParameters,
    objective: str,
    direction: str,
    max_trials: int,
    max_epochs: int,
    seed: int,
) -> keras_tuner.Oracle:
    """The oracle of a name.

    Args:
        name: random, bayesian, hyperband or grid.
        hyperparameters: the space, all of it.
        objective: name of the metric.
        direction: "max" or "min".
        max_trials: at most; not of hyperband, whose number follows from the
            epochs.
        max_epochs: of a trial of hyperband.
        seed: of the draws.
    """
    if name == "hyperband":
        size = {"max_epochs": max_epochs}
    else:
        size = {"max_trials": max_trials}
    oracle = _ORACLES[name](
        objective=keras_tuner.Objective(objective, direction),
        hyperparameters=hyperparameters,
        # keras-tuner takes 0 for no seed.
        seed=seed + 1,
        allow_new_entries=False,
        tune_new_entries=False,
        max_consecutive_failed_trials=_ANY_NUMBER,
        **size,
    )
    oracle.verbose = 0
    return oracle


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
        for logged in list(log.trials):
            trial = oracle.create_trial(_ASKER)
            if trial.status != "RUNNING":
                return
            _tell(oracle, trial, logged)
        while (trial := oracle.create_trial(_ASKER)).status == "RUNNING":
            ended = run(trial.trial_id, dict(trial.hyperparameters.values))
            log.append(ended)
            _tell(oracle, trial, ended)
            yield ended


def _tell(oracle, trial, ended: trial_log.EndedTrial) -> None:
    # What was tried is what counts, should another version of keras-tuner draw
    # other values.
    trial.hyperparameters.values = dict(ended.values)
    trial.status, trial.message = ended.status, ended.message
    if ended.score is not None:
        oracle.update_trial(
            trial.trial_id, {oracle.objective.name: ended.score}
        )
    oracle.end_trial(trial)
