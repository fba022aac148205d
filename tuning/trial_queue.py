"""keras-tuner's Oracle, which says what to try next, with a log to rebuild it.

keras-tuner keeps an Oracle in files that a kill can tear, and forgets who ran
what. Here the log is the truth: a new start tells the events of the log to a
fresh Oracle, which is then where the old one was.
"""

import threading
import time

import keras_tuner
from keras_tuner.src.engine import trial as trial_module

from tuning import trial_log

ORACLES = ("random", "bayesian", "hyperband", "grid")
COMPLETED, FAILED = "COMPLETED", "FAILED"
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
    """One of `ORACLES`.

    Args:
        name: of the oracle.
        hyperparameters: the space, all of it.
        objective: name of the metric.
        direction: "max" or "min".
        max_trials: at most; of hyperband, whose number follows from the
            epochs, no limit.
        max_epochs: of a trial.
        seed: of the draws.
    """
    common = {
        "objective": keras_tuner.Objective(objective, direction),
        "hyperparameters": hyperparameters,
        # keras-tuner takes 0 for no seed.
        "seed": seed + 1,
        "allow_new_entries": False,
        "tune_new_entries": False,
        "max_consecutive_failed_trials": _ANY_NUMBER,
    }
    if name == "hyperband":
        oracle = keras_tuner.oracles.HyperbandOracle(
            max_epochs=max_epochs, **common
        )
    else:
        kind = {
            "random": keras_tuner.oracles.RandomSearchOracle,
            "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
            "grid": keras_tuner.oracles.GridSearchOracle,
        }[name]
        oracle = kind(max_trials=max_trials, **common)
    oracle.verbose = 0
    # The log replaces these files.
    oracle.save = lambda: None
    oracle._save_trial = lambda trial: None
    return oracle


class TrialQueue:
    """Hands out trials and takes their results; safe to call from threads."""

    def __init__(self, oracle: keras_tuner.Oracle, log: trial_log.TrialLog):
        """Tells a fresh oracle what the log holds.

        Trials that were running when the log ends are handed out first.
        """
        self._oracle = oracle
        self._log = log
        self._lock = threading.RLock()
        self._last_seen: dict[str, float] = {}
        for event in list(log.events):
            self._replay(event)
        self.release_all()

    @property
    def finished(self) -> list[dict]:
        """The events of finished trials, in their order."""
        return [e for e in self._log.events if e["event"] == trial_log.ENDED]

    @property
    def num_running(self) -> int:
        with self._lock:
            return len(self._oracle.ongoing_trials)

    def values_of(self, trial_id: str) -> dict:
        """Hyperparameters of a trial."""
        with self._lock:
            return self._oracle.trials[trial_id].hyperparameters.values

    def worker_of(self, trial_id: str) -> str | None:
        """Who runs a trial."""
        with self._lock:
            for worker, trial in self._oracle.ongoing_trials.items():
                if trial.trial_id == trial_id:
                    return worker
            return None

    def next_trial(self, worker: str) -> trial_module.Trial:
        """A trial for a worker; its status says whether to run it.

        RUNNING is to be run, IDLE to be asked for again, and STOPPED says that
        there are no more.
        """
        with self._lock:
            self._last_seen[worker] = time.monotonic()
            running = self._oracle.ongoing_trials.get(worker)
            if running:
                return running
            trial = self._oracle.create_trial(worker)
            if trial.status == trial_module.TrialStatus.RUNNING:
                self._log.append(
                    {
                        "event": trial_log.STARTED,
                        "trial": trial.trial_id,
                        "worker": worker,
                        "values": dict(trial.hyperparameters.values),
                    }
                )
            elif (
                trial.status == trial_module.TrialStatus.STOPPED
                and self._oracle.ongoing_trials
            ):
                # Who runs the last ones may die.
                trial.status = trial_module.TrialStatus.IDLE
            return trial

    def end_trial(self, trial_id: str, outcome: dict) -> bool:
        """Notes how a trial ended.

        Args:
            trial_id: of the trial.
            outcome: `status`, `COMPLETED` or `FAILED`; of a completed trial
                its `score` and whatever else is to be in the log, of a failed
                one its `message`.

        Returns:
            False if another worker had ended it already.
        """
        with self._lock:
            trial = self._oracle.trials[trial_id]
            if trial.status in (COMPLETED, FAILED):
                return False
            event = {"event": trial_log.ENDED, "trial": trial_id, **outcome}
            self._log.append(event)
            self._end(event)
            return True

    def saw(self, worker: str) -> None:
        """Notes that a worker is alive."""
        with self._lock:
            self._last_seen[worker] = time.monotonic()

    def release_silent(self, timeout_s: float) -> list[str]:
        """Takes the trials of silent workers back, to be handed out anew.

        Returns:
            The workers that were silent for longer and had a trial.
        """
        with self._lock:
            now = time.monotonic()
            silent = [
                worker
                for worker in self._oracle.ongoing_trials
                if now - self._last_seen.get(worker, now) > timeout_s
            ]
            for worker in silent:
                self.release(worker)
            return silent

    def release(self, worker: str) -> None:
        """Takes the trial of a worker back, if it has one."""
        with self._lock:
            trial = self._oracle.ongoing_trials.pop(worker, None)
            self._oracle.tuner_ids.discard(worker)
            if trial:
                self._oracle._retry_queue.insert(0, trial.trial_id)

    def release_all(self) -> None:
        """Takes all running trials back; the earliest is handed out first."""
        for worker, _ in sorted(
            self._oracle.ongoing_trials.items(),
            key=lambda item: item[1].trial_id,
        ):
            self.release(worker)

    def _replay(self, event: dict) -> None:
        oracle = self._oracle
        if event["event"] == trial_log.ENDED:
            self._end(event)
            return
        worker, trial_id = event["worker"], event["trial"]
        # That it runs a new one says that an older one was taken from it.
        self.release(worker)
        if trial_id in oracle.trials:
            oracle._retry_queue = [
                t for t in oracle._retry_queue if t != trial_id
            ]
            trial = oracle.trials[trial_id]
            for owner, running in list(oracle.ongoing_trials.items()):
                if running is trial:
                    oracle.ongoing_trials.pop(owner)
            oracle.ongoing_trials[worker] = trial
            return
        waiting, oracle._retry_queue = oracle._retry_queue, []
        trial = oracle.create_trial(worker)
        oracle._retry_queue = waiting
        # What was tried is what counts, should another version of the oracle
        # draw other values.
        trial.hyperparameters.values = dict(event["values"])

    def _end(self, event: dict) -> None:
        trial = self._oracle.trials[event["trial"]]
        trial.status = event["status"]
        trial.message = event.get("message")
        if trial.status == COMPLETED:
            self._oracle.update_trial(
                trial.trial_id, {self._oracle.objective.name: event["score"]}
            )
        self._oracle.end_trial(trial)
