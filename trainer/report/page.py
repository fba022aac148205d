"""Renders `report.html` and `model_card.md` from what was found.

The page is one file that asks the network for nothing: figures are embedded,
and a content security policy forbids the rest.
"""

import base64

import jinja2
import numpy as np

from trainer.data import records
from trainer.evaluation import results, subgroups
from trainer.evaluation.predictions import Decided
from trainer.report import gallery, per_patient, schema
from trainer.report.context import Context

# Name and meaning of every metric, in the order of the report.
GLOSSARY = {
    "roc_auc": (
        "ROC AUC",
        "chance that an image of the class scores higher than one of another "
        "class; 0.5 is guessing, 1 is perfect",
    ),
    "sensitivity": ("Sensitivity", "share of the diseased that are found"),
    "specificity": ("Specificity", "share of the others that are cleared"),
    "positive_predictive_value": (
        "Positive predictive value",
        "share of positive calls that are right, among these images",
    ),
    "negative_predictive_value": (
        "Negative predictive value",
        "share of negative calls that are right, among these images",
    ),
    "accuracy": ("Accuracy", "share of images that are named right"),
    "balanced_accuracy": (
        "Balanced accuracy",
        "mean share named right over the classes, whatever their sizes",
    ),
    "f1": ("F1", "harmonic mean of sensitivity and predictive value"),
    "macro_f1": ("Macro F1", "mean F1 over the classes"),
    "matthews_correlation": (
        "Matthews correlation",
        "between truth and decision; 0 is guessing, 1 is perfect",
    ),
    "quadratic_kappa": (
        "Quadratic weighted kappa",
        "agreement beyond chance, mistakes by the square of how far off they "
        "are in the order of the classes; 0 is guessing, 1 is perfect",
    ),
    "average_precision": (
        "Average precision",
        "area under the precision-recall curve; guessing gives the share of "
        "the class",
    ),
    "log_loss": ("Log loss", "surprise at the truth, in nats; 0 is best"),
    "brier": ("Brier score", "squared error of the probabilities; 0 is best"),
    "expected_calibration_error": (
        "Calibration error",
        "mean gap between stated and observed probability; 0 is best",
    ),
}
_CARDS_OF_TWO = tuple(GLOSSARY)[:5]
_CARDS_OF_MANY = ("accuracy", "balanced_accuracy", "roc_auc", "macro_f1")
_PER_CLASS = (
    "sensitivity",
    "specificity",
    "positive_predictive_value",
    "negative_predictive_value",
    "f1",
    "roc_auc",
    "average_precision",
)
CAPTIONS = {
    "confusion_matrix.png": "Confusion matrix: what was decided, for each true "
    "class.",
    "roc_curve.png": "ROC curves: sensitivity against false alarms as the "
    "threshold moves.",
    "precision_recall_curve.png": "Precision-recall curves: how many calls "
    "are right as more are found.",
    "calibration.png": "Reliability: stated probability against observed "
    "share. On the diagonal, 80 % means 80 %.",
    "training_history.png": "Accuracy and loss over the epochs of training.",
}
_MAX_SLIDER_SCORES = 100_000  # more make the page large and slow


def format_metric(metric: results.Metric) -> str:
    """A metric as text, with its interval or the reason for its lack."""
    if metric.value is None:
        return f"not computed: {metric.reason}"
    if metric.interval is None:
        return f"{metric.value:.3f} (interval not computed: {metric.reason})"
    low, high = metric.interval
    return f"{metric.value:.3f} ({low:.3f} to {high:.3f})"


def of_groups(figure: str) -> str:
    """The name that a figure of images has where it is of groups."""
    return figure.replace(".png", "_by_group.png")


def _label(name: str) -> str:
    return GLOSSARY[name][0] if name in GLOSSARY else name.replace("_", " ")


def _unbroken(text: str) -> str:
    """Keeps an interval on one line of a table."""
    return text.replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def _markdown_cell(text: str) -> str:
    """Text that does not end a cell of a table or start a tag."""
    return str(text).replace("|", "\\|").replace("<", "&lt;")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.report"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "label": _label,
        "figure": format_metric,
        "unbroken": _unbroken,
        "cell": _markdown_cell,
        "thumbnail": gallery.thumbnail,
        "of_groups": of_groups,
    }
    return environment


def _order(metrics: dict[str, results.Metric]) -> list[str]:
    return [name for name in GLOSSARY if name in metrics]


def model_card(
    findings: schema.Findings, info: records.DatasetInfo, config: dict
) -> str:
    """The text of `model_card.md`; `config` are the run's settings."""
    template = _environment().get_template("model_card.md")
    return template.render(
        findings=findings,
        split=findings.split,
        order=_order(findings.split.metrics),
        info=info,
        config=config,
    )


def report(
    findings: schema.Findings,
    info: records.DatasetInfo,
    config: dict | None,
    predictions: Decided,
    figures: dict[str, bytes],
    context: Context,
    patients: per_patient.Patients | None = None,
    doubtful: gallery.Gallery | None = None,
) -> str:
    """The text of `report.html`.

    `predictions` are of the split that is shown, `figures` PNG by name,
    `patients` its groups, if they are judged, `doubtful` images whose label is
    doubtful.
    """
    split = findings.split
    cards = _CARDS_OF_MANY if info.positive_index is None else _CARDS_OF_TWO
    template = _environment().get_template("report.html")
    return template.render(
        findings=findings,
        split=split,
        cards=cards,
        order=_order(split.metrics),
        per_class=_PER_CLASS,
        kinship=(split.subgroups or {}).get(subgroups.KINSHIP, {}),
        of_subgroups=subgroups.shown_metrics(info.positive_index),
        glossary=GLOSSARY,
        info=info,
        config=config,
        captions={n: c for n, c in CAPTIONS.items() if n in figures},
        images={
            name: base64.b64encode(content).decode("ascii")
            for name, content in figures.items()
        },
        slider=slider_data(predictions),
        galleries=gallery.make_galleries(predictions, findings.shown, context),
        patient_galleries=gallery.make_galleries(
            patients.predictions[findings.shown],
            findings.shown,
            patients.context,
        )
        if patients
        else (),
        doubtful=doubtful,
        audit=context.audit,
        start=context.starts[-1] if context.starts else None,
        num_starts=len(context.starts),
    )


def slider_data(predictions: Decided) -> dict | None:
    """What the threshold slider computes with; None if it has no use.

    Returns:
        `groups`, an int per image, and `curves`: for each class that has a
        threshold, its `name`, that of the `rest`, `scores` and `truth` (0 or
        1) per image, and `start`, the threshold that the slider starts at.
    """
    positive, names = predictions.positive_index, predictions.class_names
    predictions = predictions.select(predictions.is_finite)
    probabilities = predictions.probabilities
    if not len(predictions.ids) or probabilities.size > _MAX_SLIDER_SCORES:
        return None
    shown: list[tuple[int, str, float | None]]
    if positive is None:
        shown = [(c, "other classes", 0.5) for c in range(len(names))]
    else:
        shown = [(positive, names[1 - positive], predictions.operating_point)]
    _, groups = np.unique(np.asarray(predictions.groups), return_inverse=True)
    return {
        "groups": groups.tolist(),
        "chosen": positive is not None,
        "curves": [
            {
                "name": names[c],
                "rest": rest,
                "scores": probabilities[:, c].tolist(),
                "truth": (predictions.labels == c).astype(int).tolist(),
                "start": start,
            }
            for c, rest, start in shown
        ],
    }
