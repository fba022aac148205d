"""What Vertex AI tells a job by its environment, and wants to be told.

Google: "Environment variables for special Cloud Storage directories" and "Use
managed datasets", Vertex AI documentation. The cluster that it names is read
by `training/cluster.py`.
"""

import math
import os

# Variable -> the directory that it names below that of the job, or trial.
_DIRECTORIES = {
    "AIP_CHECKPOINT_DIR": "checkpoints",
    "AIP_TENSORBOARD_LOG_DIR": "logs",
    "AIP_MODEL_DIR": "model",
}
_DATA = (
    "AIP_TRAINING_DATA_URI",
    "AIP_VALIDATION_DATA_URI",
    "AIP_TEST_DATA_URI",
)


def default_path(flag: str) -> str:
    """What the environment says where a flag of `trainer.task` is not given.

    Checkpoints and logs of a job lie where those of `job_dir` do, its model is
    the base path of exported versions, and its data are shards of records.

    Args:
        flag: data_dir, job_dir or export_dir.

    Returns:
        A path, "" if the environment names none.

    Raises:
        ValueError: if it names one that cannot be used.
    """
    read = {
        "data_dir": _read_data_dir,
        "job_dir": _read_job_dir,
        "export_dir": lambda: _read("AIP_MODEL_DIR"),
    }
    return read[flag]()


def _read(variable: str) -> str:
    return os.environ.get(variable, "").strip().rstrip("/")


def _read_job_dir() -> str:
    given = {v: _read(v) for v in _DIRECTORIES if _read(v)}
    parents = {os.path.dirname(path) for path in given.values()}
    is_usual = all(
        os.path.basename(path) == _DIRECTORIES[variable]
        for variable, path in given.items()
    )
    if len(parents) > 1 or not is_usual:
        said = ", ".join(f"{v}={path}" for v, path in given.items())
        raise ValueError(
            "The environment must name checkpoints, logs and model of one "
            f"directory. Received: {said}. Give --job_dir."
        )
    return parents.pop() if parents else ""


def _read_data_dir() -> str:
    given = {v: _read(v) for v in _DATA if _read(v)}
    kind = os.environ.get("AIP_DATA_FORMAT", "")
    parents = set()
    for path in given.values():
        directory, name = os.path.split(path)
        # Shards by a pattern, or the directory that has them.
        is_shards = "*" in name or name.endswith(".tfrecord")
        parents.add(directory if is_shards else path)
    if len(parents) > 1 or (given and kind not in ("", "tfrecord")):
        said = ", ".join(f"{v}={path}" for v, path in given.items())
        raise ValueError(
            "Training reads records of trainer.data.build_records, all of one "
            f"directory. Received: {said}"
            + (f", AIP_DATA_FORMAT={kind}" if kind else "")
            + ". Build records of these images with --manifest, and give "
            "--data_dir."
        )
    return parents.pop() if parents else ""


def report_metrics(metrics: dict[str, float | None], step: int) -> None:
    """Reports metrics under their own names, if a tuning job runs this.

    The job knows its metric by `metricId`, which must be one of the names.

    Args:
        metrics: of validation: what a trial is chosen by. Those that are not
            defined are left out.
        step: epochs trained, for the job's curve.
    """
    # Vertex AI sets both for a trial, and neither for another job.
    if not {"CLOUD_ML_HP_METRIC_FILE", "CLOUD_ML_TRIAL_ID"} & set(os.environ):
        return
    import hypertune

    reporter = hypertune.HyperTune()
    for name, value in metrics.items():
        if value is not None and math.isfinite(value):
            reporter.report_hyperparameter_tuning_metric(name, value, step)
