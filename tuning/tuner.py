"""A sweep from start to end: trials, one after the other, and their result."""

import csv
import dataclasses
import io
import json
import time

import numpy as np
import tensorflow as tf

from trainer import config, train
from trainer.data import input_pipeline
from trainer.evaluation import metrics
from trainer.storage import paths
from tuning import (
    optimism,
    report,
    search_space,
    second_stage,
    sweep_data,
    trial,
    trial_log,
    trial_queue,
)

SWEEP_FILE = "sweep.json"
BEST_FILE = "best_hyperparameters.json"
TRIALS_FILE = "trials.csv"
LOGITS_DIR = "logits"
_IDLE_S = 0.2
# Fields of a `TrainConfig` that no head depends on.
_FREE = (
    "data_dir",
    "job_dir",
    "features_dir",
    "stage_data",
    "strategy",
    "fine_tune_epochs",
    "fine_tune_blocks",
    "fine_tune_learning_rate",
)


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """What a sweep does beside what a run does.

    Attributes:
        oracle: one of `trial_queue.ORACLES`.
        max_trials: at most.
        objective: a metric of `metrics.json`.
        executions_per_trial: heads of other seeds that a trial trains.
        num_folds: see `sweep_data.load`.
        space: what is searched.
        depths: of fine-tuning, tried with the best head; none: no second
            stage.
    """

    oracle: str
    max_trials: int
    objective: str
    executions_per_trial: int
    num_folds: int
    space: dict
    depths: tuple[int, ...] = ()


def claim(cfg: config.TrainConfig, options: SweepOptions) -> None:
    """Checks that a job directory is this sweep's, and makes it so.

    Raises:
        ValueError: if it is another sweep's, or the objective is no metric.
    """
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    names = trial.metric_names(len(info.class_names))
    if options.objective not in names:
        raise ValueError(
            f"--objective must be one of {', '.join(names)}. Received: "
            f"objective={options.objective}."
        )
    mine = {
        "data": info.fingerprint,
        "config": {
            name: value
            for name, value in cfg.settings.items()
            if name not in _FREE
        },
        "oracle": options.oracle,
        "objective": options.objective,
        "executions_per_trial": options.executions_per_trial,
        "num_folds": options.num_folds,
        "space": {
            name: dataclasses.asdict(values)
            for name, values in options.space.items()
        },
    }
    if options.oracle in ("bayesian", "grid"):
        mine["max_trials"] = options.max_trials
    mine = json.loads(json.dumps(mine))
    path = paths.join(cfg.job_dir, SWEEP_FILE)
    if paths.exists(path):
        theirs = json.loads(paths.read_bytes(path))
        different = [k for k in mine if mine[k] != theirs.get(k)]
        if different:
            raise ValueError(
                f"{cfg.job_dir} belongs to a sweep with another "
                f"{' and '.join(different)}: give the same flags and data to "
                "continue it, or another --job_dir."
            )
    paths.remove(paths.join(cfg.job_dir, paths.SUCCESS_FILE))
    paths.write_atomically(path, json.dumps(mine, indent=2) + "\n")


def make_queue(
    cfg: config.TrainConfig, options: SweepOptions
) -> trial_queue.TrialQueue:
    """The queue of a sweep, where its log left it."""
    oracle = trial_queue.make_oracle(
        options.oracle,
        search_space.to_hyperparameters(options.space),
        options.objective,
        trial.direction(options.objective),
        options.max_trials,
        cfg.head_epochs,
        cfg.seed,
    )
    return trial_queue.TrialQueue(oracle, trial_log.TrialLog(cfg.job_dir))


def load_data(
    cfg: config.TrainConfig,
    options: SweepOptions,
    strategy: tf.distribute.Strategy,
) -> trial.SweepData:
    return sweep_data.load(
        cfg,
        strategy,
        options.space["augmentation_strength"].values,
        options.num_folds,
    )


def run_one(
    cfg: config.TrainConfig,
    options: SweepOptions,
    data: trial.SweepData,
    values: dict,
) -> tuple[dict, np.ndarray | None]:
    """Runs a trial.

    Whatever goes wrong in it is its outcome, and not the sweep's end.

    Returns:
        The outcome, as `TrialQueue.end_trial` takes it, and what it said of
        each image, None if it failed.
    """
    settings = dataclasses.asdict(cfg) | search_space.to_settings(
        values, dataclasses.asdict(cfg)
    )
    seeds = [cfg.seed + i for i in range(options.executions_per_trial)]
    try:
        result = trial.run_trial(
            settings,
            values["augmentation_strength"],
            data,
            seeds,
            options.objective,
        )
    except (ValueError, ArithmeticError, MemoryError) as error:
        failure = str(error).splitlines()[0]
        return {"status": trial_queue.FAILED, "message": failure}, None
    return {
        "status": trial_queue.COMPLETED,
        "score": result.metrics[options.objective],
        "metrics": result.metrics,
        "executions": result.executions,
        "num_epochs": result.num_epochs,
        "seconds": result.seconds,
    }, result.logits


def write_logits(
    job_dir: str, trial_id: str, logits: np.ndarray | None
) -> None:
    """Keeps what a trial said of each image, before its end is in the log."""
    if logits is None:
        return
    buffer = io.BytesIO()
    np.save(buffer, logits)
    paths.write_atomically(
        paths.join(job_dir, LOGITS_DIR, f"{trial_id}.npy"),
        buffer.getvalue(),
    )


def run(
    cfg: config.TrainConfig, options: SweepOptions, worker: str = "worker-0"
) -> dict:
    """Runs a sweep in this process; goes on where an earlier start stopped.

    Returns:
        What `finish` does.
    """
    claim(cfg, options)
    queue = make_queue(cfg, options)
    strategy = train.set_up(cfg)
    data = load_data(cfg, options, strategy)
    # The time left counts from here: the features are there.
    table = report.LiveTable(options, queue.finished)
    while True:
        found = queue.next_trial(worker)
        if found.status == "STOPPED":
            break
        if found.status == "IDLE":
            time.sleep(_IDLE_S)
            continue
        outcome, logits = run_one(
            cfg, options, data, found.hyperparameters.values
        )
        write_logits(cfg.job_dir, found.trial_id, logits)
        queue.end_trial(found.trial_id, outcome)
        table.add(queue.finished[-1], found.hyperparameters.values)
    return finish(cfg, options, strategy, data, queue.finished)


def values_of_trials(events: list[dict]) -> dict[str, dict]:
    """Hyperparameters by trial."""
    return {
        e["trial"]: e["values"]
        for e in events
        if e["event"] == trial_log.STARTED
    }


def finish(
    cfg: config.TrainConfig,
    options: SweepOptions,
    strategy: tf.distribute.Strategy,
    data: trial.SweepData,
    finished: list[dict],
) -> dict:
    """Writes what the sweep found and says how far to believe it.

    Returns:
        The settings of the best trial, and of the best depth.

    Raises:
        ValueError: if no trial succeeded.
    """
    completed = [e for e in finished if e["status"] == trial_queue.COMPLETED]
    values = values_of_trials(trial_log.read_events(cfg.job_dir))
    paths.write_atomically(
        paths.join(cfg.job_dir, TRIALS_FILE), _trials_csv(finished, values)
    )
    if not completed:
        reason = finished[-1]["message"] if finished else "none was run"
        raise ValueError(
            f"None of {len(finished)} trials succeeded ({reason}): see "
            f"{paths.join(cfg.job_dir, TRIALS_FILE)}, and narrow the space "
            "with --search_space."
        )
    sign = -1 if trial.direction(options.objective) == "min" else 1
    best = max(completed, key=lambda e: sign * e["score"])
    settings = search_space.to_settings(
        values[best["trial"]], dataclasses.asdict(cfg)
    )
    _write_settings(cfg, settings)
    verdict = _judge(cfg, options, data, completed, best)
    _write_report(cfg, options, finished, values, best, verdict, [])
    if options.depths:
        depths = second_stage.try_depths(
            cfg,
            strategy,
            options.depths,
            best["trial"],
            settings,
            options.objective,
        )
        chosen = second_stage.choose(depths, options.objective)
        settings |= second_stage.depth_settings(cfg, chosen.blocks)
        _write_settings(cfg, settings)
        # Before the last sentence, which is about the test split.
        verdict.insert(-1, second_stage.make_verdict(depths, data, options))
        _write_report(cfg, options, finished, values, best, verdict, depths)
    for sentence in verdict:
        print(sentence)
    job_dir = paths.as_given(cfg.job_dir)
    print(
        f"{paths.join(job_dir, BEST_FILE)} is for trainer.task --hparams;"
        f" {paths.join(job_dir, 'sweep.html')} shows the sweep.",
        flush=True,
    )
    paths.write_atomically(paths.join(cfg.job_dir, paths.SUCCESS_FILE), b"")
    return settings


def _judge(cfg, options, data, completed: list[dict], best: dict) -> list[str]:
    """How good the best trial is, without the luck of the choice."""
    logits = [
        np.load(
            io.BytesIO(
                paths.read_bytes(
                    paths.join(cfg.job_dir, LOGITS_DIR, f"{e['trial']}.npy")
                )
            )
        )
        for e in completed
    ]
    chosen = data.predictions(data.judged, logits[completed.index(best)])
    judged = metrics.compute_metrics(
        chosen.decide(data.class_names, data.positive_index, 0.5),
        seed=cfg.seed,
    )
    return report.make_verdict(
        options,
        best,
        judged.metrics[options.objective],
        optimism.correct(logits, data, options.objective, cfg.seed),
        _score_default(cfg, options, data),
    )


def _write_report(cfg, options, finished, values, best, verdict, depths):
    for name, content in report.make_files(
        options, finished, values, best, verdict, depths
    ).items():
        paths.write_atomically(paths.join(cfg.job_dir, name), content)


def _write_settings(cfg: config.TrainConfig, settings: dict) -> None:
    paths.write_atomically(
        paths.join(cfg.job_dir, BEST_FILE),
        json.dumps(settings, indent=2) + "\n",
    )


def _score_default(
    cfg: config.TrainConfig, options: SweepOptions, data: trial.SweepData
) -> float:
    """The objective of the head that a run has without a sweep."""
    strength = max(data.views)
    settings = dataclasses.asdict(cfg)
    settings |= search_space.scale_augmentation(settings, strength)
    seeds = [cfg.seed + i for i in range(options.executions_per_trial)]
    result = trial.run_trial(settings, strength, data, seeds, options.objective)
    return result.metrics[options.objective]


def _trials_csv(finished: list[dict], values: dict[str, dict]) -> str:
    names = list(search_space.SPACE)
    metric_names = sorted({n for e in finished for n in e.get("metrics", {})})
    buffer = io.StringIO()
    writer = csv.DictWriter(
        buffer,
        ["trial", "status", "score", "seconds", "num_epochs"]
        + names
        + metric_names
        + ["message"],
        lineterminator="\n",
        extrasaction="ignore",
    )
    writer.writeheader()
    for e in finished:
        writer.writerow(e | values[e["trial"]] | e.get("metrics", {}))
    return buffer.getvalue()
