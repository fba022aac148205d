"""Tells a hyperparameter tuning job of Vertex AI how good its trial is."""

import math
import os


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
