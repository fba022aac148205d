"""The files of `job_dir/evaluation`, and the schema of `metrics.json`.

    schema_version        1
    class_names           list, in the order of the labels
    positive_class        name, or null unless there are two classes
    temperature           divides the logits; fitted on validation
    operating_point       threshold on the probability of the positive class,
                          or null unless there are two classes
    operating_point_rule  how validation chose it
    dataset_fingerprint   of `dataset.json`
    verdict               sentences: what was found
    caveats               sentences: what to know before the figures
    shown                 the split that both are about
    splits                name -> split

A split holds only images that the model gave a finite answer for:

    num_images            judged
    num_without_answer    left out
    num_groups            patients or duplicate groups
    confusion_matrix      counts, rows are true classes, columns decisions
    metrics               name -> metric, of the whole split. For two classes
                          sensitivity, specificity, predictive values, F1 and
                          areas are those of the positive class; for more,
                          roc_auc is the mean over classes
    at_prevalence         two classes: "0.05" -> predictive values -> metric
    one_vs_rest           more classes: class -> name -> metric
    baselines             if they were made: name -> metric (its name), value,
                          difference (model - baseline), difference_interval
                          and beaten: whether that interval lies above zero,
                          null where the figure cannot be computed; for two
                          classes delong_p_value of the paired test, which
                          takes images as independent
    subgroups             if asked for: column -> value -> num_images,
                          num_groups, metrics and below: names of metrics whose
                          interval lies below the whole split's figure

A metric:

    value                 null where it cannot be computed
    interval              [low, high], 95 %, or null
    reason                why value or interval is null
    method                "bootstrap over groups": percentiles of 1000
                          resamples of whole groups; "Wilson": for a
                          proportion, images of groups of their own; "Wilson,
                          for groups": with the effective number of images
    n, n_groups           of a proportion: the images and groups it is of
    n_effective           of a proportion: for Wilson's interval
    bootstrap_interval    of a proportion: that of the bootstrap, beside it
    delong_interval       of a ROC AUC: takes images as independent
"""

import dataclasses
import json
from collections.abc import Callable

import numpy as np

from trainer.data import records
from trainer.evaluation import baselines as baselines_lib
from trainer.evaluation import (
    calibration,
    data_audit,
    findings,
    metrics,
    page,
    plots,
    subgroups,
)
from trainer.evaluation import predictions as predictions_lib

METRICS_SCHEMA_VERSION = 1
PREVALENCES = (0.01, 0.05, 0.2)
format_metric = page.format_metric


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


@dataclasses.dataclass(frozen=True)
class Context:
    """What is known beside predictions; what is absent is left out.

    Attributes:
        prevalences: at which predictive values are reported.
        baselines: from `baselines.make_baselines`.
        columns: column -> split -> value per image, in the order of the
            predictions; figures are also given for the images of each value.
        train_groups: groups of the training images; where leaks were let in,
            figures are also given without the images of these groups.
        read_images: returns the encoded images of a split at indices in the
            order of its predictions; for the gallery of mistakes.
        audit: of the data.
    """

    prevalences: tuple[float, ...] = PREVALENCES
    baselines: dict[str, dict[str, np.ndarray]] | None = None
    columns: dict[str, dict[str, list[str]]] | None = None
    train_groups: frozenset[str] = frozenset()
    read_images: Callable[[str, list[int]], list[bytes]] | None = None
    audit: data_audit.Audit | None = None


def evaluate(
    predictions: dict[str, predictions_lib.Predictions],
    info: records.DatasetInfo,
    history: list[dict],
    config: dict,
    operating_point_rule: str,
    seed: int = 0,
    context: Context = Context(),
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
        context: what else is known.
    """
    names, positive = info.class_names, info.positive_index
    temperature = _fit_temperature(predictions["validation"])
    predictions = {
        split: dataclasses.replace(p, temperature=temperature)
        for split, p in predictions.items()
    }
    judged = {split: p.select(p.is_finite) for split, p in predictions.items()}
    operating_point, note = None, ""
    if positive is not None:
        validation = judged["validation"]
        operating_point, note = calibration.choose_operating_point(
            validation.labels == positive,
            validation.scores(positive),
            operating_point_rule,
        )
    splits = {
        split: _evaluate_split(split, p, info, operating_point, seed, context)
        for split, p in predictions.items()
    }
    shown = findings.shown_split(predictions)
    found = {
        "schema_version": METRICS_SCHEMA_VERSION,
        "class_names": list(names),
        "positive_class": info.positive_class,
        "temperature": temperature,
        "operating_point": operating_point,
        "operating_point_rule": operating_point_rule,
        "dataset_fingerprint": info.fingerprint,
        "verdict": findings.verdict(splits[shown], names, positive),
        "caveats": findings.caveats(info, predictions, splits, note),
        "shown": shown,
        "splits": splits,
    }
    texts = {
        "metrics.json": json.dumps(found, indent=2) + "\n",
        "predictions.csv": predictions_lib.predictions_csv(
            predictions, names, positive, operating_point
        ),
        "classification_report.txt": "\n".join(
            f"{split}\n\n"
            + metrics.classification_report(p, names, positive, operating_point)
            for split, p in judged.items()
        ),
        "model_card.md": page.model_card(found, info, config),
    }
    files = _figures(judged, info, history, found)
    texts["report.html"] = page.report(
        found,
        info,
        config,
        predictions[shown],
        files,
        context.read_images,
        context.audit,
    )
    files |= {name: text.encode("utf-8") for name, text in texts.items()}
    return Evaluation(temperature, operating_point, found, files)


def _evaluate_split(
    split, predictions, info, operating_point, seed, context
) -> dict:
    """The figures of one split, of its baselines and of its subgroups."""
    names, positive = info.class_names, info.positive_index
    answered = predictions.is_finite
    judged = predictions.select(answered)
    found = metrics.compute_metrics(
        judged,
        names,
        positive,
        operating_point,
        seed=seed,
        prevalences=context.prevalences,
    )
    found["num_without_answer"] = int(np.sum(~answered))
    scores = {
        name: by_split[split][answered]
        for name, by_split in (context.baselines or {}).items()
        if split in by_split
    }
    if scores:
        found["baselines"] = baselines_lib.compare(
            judged, scores, positive, seed=seed
        )
    columns = {
        name: by_split[split]
        for name, by_split in (context.columns or {}).items()
        if split in by_split
    }
    if info.leaks and context.train_groups:
        columns[subgroups.KINSHIP] = subgroups.kinship(
            predictions.groups, context.train_groups
        )
    if columns:
        found["subgroups"] = {
            name: subgroups.compute_subgroups(
                judged,
                [values[i] for i in np.flatnonzero(answered)],
                found["metrics"],
                names,
                positive,
                operating_point,
                seed,
            )
            for name, values in columns.items()
        }
    return found


def _fit_temperature(validation: predictions_lib.Predictions) -> float:
    answered = validation.select(validation.is_finite)
    return calibration.fit_temperature(answered.labels, answered.logits)


def _figures(judged, info, history, found) -> dict[str, bytes]:
    names, positive = info.class_names, info.positive_index
    shown = found["splits"][found["shown"]]
    return {
        "confusion_matrix.png": plots.confusion_matrix(
            shown["confusion_matrix"],
            names,
            f"{found['shown']}, {shown['num_images']} images",
        ),
        "roc_curve.png": plots.roc_curve(
            judged, names, positive, found["operating_point"]
        ),
        "precision_recall_curve.png": plots.precision_recall_curve(
            judged, names, positive
        ),
        "calibration.png": plots.calibration(judged, positive),
        "training_history.png": plots.training_history(history),
    }
