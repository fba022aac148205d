"""The files of `job_dir/evaluation`: figures, tables, report, model card."""

import base64
import dataclasses
import importlib.resources
import json

import jinja2
import numpy as np

from trainer.data import records
from trainer.evaluation import calibration, metrics, plots
from trainer.evaluation import predictions as predictions_lib

METRICS_SCHEMA_VERSION = 1
# Shown first, in this order, where they were computed.
HEADLINES = (
    "roc_auc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "positive_predictive_value",
    "negative_predictive_value",
    "f1",
    "macro_f1",
    "matthews_correlation",
    "average_precision",
    "log_loss",
    "brier",
    "expected_calibration_error",
)
FIGURES = {
    "confusion_matrix.png": "Confusion matrix: decisions against true classes.",
    "roc_curve.png": "ROC curves of validation and test.",
    "precision_recall_curve.png": "Precision-recall curves.",
    "calibration.png": "Reliability before and after temperature scaling.",
    "training_history.png": "Accuracy and loss over the epochs.",
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was chosen on validation and what was found.

    Attributes:
        temperature: divides the logits; from validation.
        operating_point: threshold on the score; None for more than two
            classes.
        metrics: content of `metrics.json`.
        files: name -> content of every file to write.
    """

    temperature: float
    operating_point: float | None
    metrics: dict
    files: dict[str, bytes]


def evaluate(
    predictions: dict[str, predictions_lib.Predictions],
    info: records.DatasetInfo,
    history: list[dict],
    config: dict,
    operating_point_rule: str,
    seed: int = 0,
) -> Evaluation:
    """Calibrates and decides on validation, and reports on every split.

    Args:
        predictions: uncalibrated, of "validation" and, if there is one, of
            "test".
        info: the data set.
        history: rows of `history.csv`.
        config: the run's settings, for the report.
        operating_point_rule: see `calibration.parse_rule`.
        seed: of the bootstrap.
    """
    names, positive = info.class_names, info.positive_index
    validation = predictions["validation"]
    temperature = calibration.fit_temperature(
        validation.labels, validation.logits
    )
    predictions = {
        split: dataclasses.replace(p, temperature=temperature)
        for split, p in predictions.items()
    }
    operating_point, note = None, ""
    if positive is not None:
        validation = predictions["validation"]
        operating_point, note = calibration.choose_operating_point(
            validation.labels == positive,
            validation.scores(positive),
            operating_point_rule,
        )
    found = {
        "schema_version": METRICS_SCHEMA_VERSION,
        "class_names": list(names),
        "positive_class": info.positive_class,
        "temperature": temperature,
        "operating_point": operating_point,
        "operating_point_rule": operating_point_rule,
        "dataset_fingerprint": info.fingerprint,
        "caveats": _caveats(info, predictions, note),
        "splits": {
            split: metrics.compute_metrics(
                p, names, positive, operating_point, seed=seed
            )
            for split, p in predictions.items()
        },
    }
    files = _files(predictions, info, history, found)
    images = {
        name: base64.b64encode(content).decode("ascii")
        for name, content in files.items()
        if name.endswith(".png")
    }
    for template in ("report.html", "model_card.md"):
        text = _render(template, found, info, config, images)
        files[template] = text.encode("utf-8")
    return Evaluation(temperature, operating_point, found, files)


def _caveats(info, predictions, note) -> list[str]:
    """What a reader must know before the figures."""
    caveats = []
    if info.leaks:
        caveats.append(
            f"{info.leaks} images share a patient or a copy with another "
            "split (--on_leak=allow): the figures are too good."
        )
    if "test" not in predictions:
        caveats.append(
            "There is no test split: the figures are those of validation, "
            "which chose weights, temperature and threshold, and are "
            "optimistic."
        )
    shown = "test" if "test" in predictions else "validation"
    num_groups = len(set(predictions[shown].groups))
    if num_groups < 100:
        caveats.append(
            f"The {shown} split has {len(predictions[shown].ids)} images of "
            f"{num_groups} independent groups: mind the width of the "
            "intervals."
        )
    missing = [
        name
        for c, name in enumerate(info.class_names)
        if not np.any(predictions[shown].labels == c)
    ]
    if missing:
        caveats.append(
            f"The {shown} split has no image of {', '.join(missing)}."
        )
    if note:
        caveats.append(f"Operating point: {note}.")
    return caveats


def _files(predictions, info, history, found) -> dict[str, bytes]:
    names, positive = info.class_names, info.positive_index
    operating_point = found["operating_point"]
    shown = "test" if "test" in predictions else "validation"
    return {
        "metrics.json": (json.dumps(found, indent=2) + "\n").encode("utf-8"),
        "predictions.csv": predictions_lib.predictions_csv(
            predictions, names, positive, operating_point
        ).encode("utf-8"),
        "classification_report.txt": "\n".join(
            f"{split}\n\n"
            + metrics.classification_report(p, names, positive, operating_point)
            for split, p in predictions.items()
        ).encode("utf-8"),
        "confusion_matrix.png": plots.confusion_matrix(
            found["splits"][shown]["confusion_matrix"],
            names,
            f"{shown}, {found['splits'][shown]['num_images']} images",
        ),
        "roc_curve.png": plots.roc_curve(
            predictions, names, positive, operating_point
        ),
        "precision_recall_curve.png": plots.precision_recall_curve(
            predictions, names, positive
        ),
        "calibration.png": plots.calibration(predictions, positive),
        "training_history.png": plots.training_history(history),
    }


def _render(template, found, info, config, images) -> str:
    shown = "test" if "test" in found["splits"] else "validation"
    environment = jinja2.Environment(
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = lambda name: name.replace("_", " ")
    environment.filters["figure"] = format_metric
    source = (
        importlib.resources.files("trainer.evaluation") / "templates" / template
    ).read_text(encoding="utf-8")
    computed = found["splits"][shown]["metrics"]
    order = [n for n in HEADLINES if n in computed]
    order += [n for n in computed if n not in order]
    return environment.from_string(source).render(
        found=found,
        shown=shown,
        order=order,
        info=info,
        config=config,
        images=images,
        captions=FIGURES,
    )


def format_metric(metric: dict) -> str:
    """A metric as text, with its interval or the reason for its lack."""
    if metric["value"] is None:
        return f"not computed: {metric['reason']}"
    if metric["interval"] is None:
        return f"{metric['value']:.3f} (no interval: {metric['reason']})"
    low, high = metric["interval"]
    return f"{metric['value']:.3f} ({low:.3f} to {high:.3f})"
