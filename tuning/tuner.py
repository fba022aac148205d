"""A sweep from start to end: trials, one after the other, and their result."""

import dataclasses
import functools
import io
import json
import time

import numpy as np
import tensorflow as tf

from trainer import config, train
from trainer.data import input_pipeline
from trainer.evaluation import metrics
from trainer.storage import locks, paths
from tuning import (
    objectives,
    optimism,
    oracles,
    report,
    search_space,
    second_stage,
    sweep_data,
    trial,
    trial_log,
)

SWEEP_FILE = "sweep.json"
BEST_FILE = "best_hyperparameters.json"
LOGITS_DIR = "logits"
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
    """What a sweep does beside what a run does, as the flags say."""

    oracle: str
    max_trials: int
    objective: str
    executions_per_trial: int
    num_folds: int
    space: dict[str, search_space.Choice | search_space.Range]
    # Of fine-tuning, tried with the best head; none: no second stage.
    depths: tuple[int, ...] = ()


def run(cfg: config.TrainConfig, options: SweepOptions) -> dict:
    """Runs a sweep; goes on where an earlier start stopped.

    Returns:
        The settings of the best trial, and of the best depth.

    Raises:
        ValueError: if flags, records or job directory do not fit, or no trial
            succeeded.
    """
    with locks.held(cfg.job_dir, f"--job_dir={cfg.job_dir}"):
        return _run(cfg, options)


def _run(cfg: config.TrainConfig, options: SweepOptions) -> dict:
    make_oracle = functools.partial(
        oracles.make_oracle,
        options.oracle,
        search_space.to_hyperparameters(options.space),
        options.objective,
        options.max_trials,
        cfg.head_epochs,
        cfg.seed,
    )
    if options.oracle == "hyperband":
        oracles.check_hyperband(make_oracle(), cfg.head_epochs)
    claim(cfg, options)
    log = trial_log.TrialLog(cfg.job_dir)
    strategy = train.set_up(cfg)
    data = sweep_data.load(
        cfg,
        strategy,
        options.space["augmentation_strength"].values,
        options.num_folds,
    )
    # The time left counts from here: the features are there.
    table = report.LiveTable(options, len(log.trials))
    run_one = functools.partial(_run_one, cfg, options, data)
    for _ in oracles.run_trials(make_oracle(), log, run_one):
        table.show_last(log.trials)
    return _finish(cfg, options, strategy, data, log.trials)


def claim(cfg: config.TrainConfig, options: SweepOptions) -> None:
    """Makes a job directory this sweep's.

    Raises:
        ValueError: if it is another sweep's, or the objective is no metric.
    """
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    names = objectives.metric_names(len(info.class_names))
    if options.objective not in names:
        raise ValueError(
            f"--objective must be one of {', '.join(names)}. Received: "
            f"objective={options.objective}."
        )
    settings = {k: v for k, v in cfg.settings.items() if k not in _FREE}
    facts = {"data": info.fingerprint, "config": settings}
    facts |= dataclasses.asdict(options)
    # More trials are those of fewer, and others.
    del facts["depths"], facts["max_trials"]
    facts = json.loads(json.dumps(facts))
    path = paths.join(cfg.job_dir, SWEEP_FILE)
    if paths.exists(path):
        earlier = json.loads(paths.read_bytes(path))
        different = [k for k in facts if facts[k] != earlier.get(k)]
        if different:
            raise ValueError(
                f"{cfg.job_dir} belongs to a sweep with another "
                f"{' and '.join(different)}: give the same flags and data to "
                "continue it, or another --job_dir."
            )
    paths.remove(paths.join(cfg.job_dir, paths.SUCCESS_FILE))
    paths.write_atomically(path, json.dumps(facts, indent=2) + "\n")


def _run_one(cfg, options, data, trial_id, values) -> trial_log.EndedTrial:
    """Runs a trial; what goes wrong in it is its outcome, not the sweep's end.

    What its heads said of each image is on the disk before the log has it.
    """
    start = time.monotonic()
    settings = search_space.to_settings(values, vars(cfg))
    strength = values["augmentation_strength"]
    try:
        result = _train(cfg, options, data, settings, strength)
    except (ValueError, ArithmeticError, MemoryError) as error:
        # Some errors say no more than what they are.
        message = (str(error) or type(error).__name__).splitlines()[0]
        seconds = time.monotonic() - start
        return trial_log.EndedTrial(trial_id, values, seconds, message=message)
    buffer = io.BytesIO()
    np.save(buffer, result.logits)
    paths.write_atomically(_logits_path(cfg, trial_id), buffer.getvalue())
    seconds = time.monotonic() - start
    score = result.metrics[options.objective]
    return trial_log.EndedTrial(
        trial_id, values, seconds, score, result.metrics, result.num_epochs
    )


def _train(cfg, options, data, settings, strength) -> trial.TrialResult:
    return trial.run_trial(
        vars(cfg) | settings,
        strength,
        data,
        [cfg.seed + i for i in range(options.executions_per_trial)],
        options.objective,
    )


def _logits_path(cfg, trial_id: str) -> str:
    return paths.join(cfg.job_dir, LOGITS_DIR, f"{trial_id}.npy")


def _finish(
    cfg: config.TrainConfig,
    options: SweepOptions,
    strategy: tf.distribute.Strategy,
    data: trial.SweepData,
    trials: list[trial_log.EndedTrial],
) -> dict:
    """Writes what the sweep found and says how far to believe it."""

    def write(name: str, content: bytes | str) -> None:
        paths.write_atomically(paths.join(cfg.job_dir, name), content)

    def write_result(settings, verdict, depths):
        write(BEST_FILE, json.dumps(settings, indent=2) + "\n")
        for name, content in report.make_files(
            options, trials, best, verdict, depths
        ).items():
            write(name, content)

    write(report.TRIALS_FILE, report.make_csv(trials))
    best = objectives.best(trials, options.objective)
    if best is None:
        raise ValueError(
            f"None of {len(trials)} trials succeeded ({trials[-1].message}): "
            f"see {paths.join(cfg.job_dir, report.TRIALS_FILE)}, and narrow "
            "the space with --search_space."
        )
    settings = search_space.to_settings(best.values, vars(cfg))
    verdict = _judge(cfg, options, data, trials, best)
    write_result(settings, verdict, [])
    if options.depths:
        depths = second_stage.try_depths(
            cfg, strategy, options, best.trial_id, settings
        )
        chosen = objectives.best(depths, options.objective)
        settings |= second_stage.depth_settings(cfg, chosen.blocks)
        sentence = second_stage.make_verdict(depths, data, options.objective)
        # Before the last one, which is about the test split.
        verdict.insert(-1, sentence)
        write_result(settings, verdict, depths)
    job_dir = paths.as_given(cfg.job_dir)
    print(
        *verdict,
        f"{paths.join(job_dir, BEST_FILE)} is for trainer.task --hparams;"
        f" {paths.join(job_dir, report.PAGE_FILE)} shows the sweep.",
        sep="\n",
        flush=True,
    )
    write(paths.SUCCESS_FILE, b"")
    return settings


def _judge(cfg, options, data, trials, best) -> list[str]:
    """How good the best trial is, without the luck of the choice."""
    completed = [t for t in trials if t.score is not None]
    logits = [np.load(_logits_path(cfg, t.trial_id)) for t in completed]
    of_best = metrics.compute_metrics(
        data.predictions(data.judged, logits[completed.index(best)]),
        seed=cfg.seed,
    )
    # The head that a run has without a sweep.
    default = _train(cfg, options, data, {}, max(data.views))
    return report.make_verdict(
        options,
        len(completed),
        best,
        of_best.metrics[options.objective],
        optimism.correct(logits, data, options.objective, cfg.seed),
        default.metrics[options.objective],
    )
