"""The files of `job_dir/evaluation`, and the schema of `metrics.json`.

    schema_version        1
    subject               which model was judged on which images, "" for the
                          model of a run on its own data
    class_names           list, in the order of the labels
    positive_class        name, or null unless there are two classes
    temperature           divides the logits; fitted on validation. 1 where a
                          served model was judged, which calibrates itself
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
                          interval lies below the whole split's figure. Where
                          leaks were let in, the column "kinship with training"
                          parts the images that share a patient or a copy with
                          training from the others, with baselines for each
    out_of_distribution   if it was scored: num_images, num_flagged and
                          median_score of all finite scores; 1 is the threshold

The whole may also hold:

    cross_validation      num_folds, pooled (a split, of the predictions of all
                          folds together), folds (a split each) and mean: name
                          -> value, sd: mean and standard deviation over folds
    comparison            this and other (names), num_images, num_groups,
                          num_without_answer, metrics: name -> this, other,
                          difference, interval (paired bootstrap over groups);
                          delong: class -> difference, interval, p_value, or
                          null for fewer than two images of a class; mcnemar:
                          only_this_right, only_other_right, p_value (exact);
                          verdict (sentences). Both tests take images as
                          independent

A metric:

    value                 null where it cannot be computed
    interval              [low, high], 95 %, or null
    reason                why value or interval is null
    method                "bootstrap over groups": percentiles of 1000
                          resamples of whole groups, expanded as Student's
                          interval is for few groups of the smallest class;
                          "Wilson": for a proportion, images of groups of their
                          own; "Wilson, for groups": with the effective number
                          of images
    n, n_groups           of a proportion: the images and groups it is of
    n_effective           of a proportion: for Wilson's interval
    bootstrap_interval    of a proportion: that of the bootstrap, beside it
    delong_interval       of a ROC AUC: takes images as independent
"""

import dataclasses
import json

import numpy as np

from trainer.data import records
from trainer.evaluation import baselines as baselines_lib
from trainer.evaluation import calibration, metrics, subgroups
from trainer.evaluation import predictions as predictions_lib
from trainer.report import findings, page, plots
from trainer.report.context import Context

METRICS_SCHEMA_VERSION = 1
_NO_CONTEXT = Context()
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


def evaluate(
    predictions: dict[str, predictions_lib.Predictions],
    info: records.DatasetInfo,
    history: list[dict],
    config: dict,
    operating_point_rule: str,
    seed: int = 0,
    context: Context = _NO_CONTEXT,
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
    chosen = calibration.choose(
        predictions["validation"], info.positive_index, operating_point_rule
    )
    return judge(predictions, info, chosen, history, config, seed, context)


def judge(
    predictions: dict[str, predictions_lib.Predictions],
    info: records.DatasetInfo,
    chosen: calibration.Chosen,
    history: list[dict] | None = None,
    config: dict | None = None,
    seed: int = 0,
    context: Context = _NO_CONTEXT,
) -> Evaluation:
    """Reports on every split with what was chosen before.

    Args:
        predictions: uncalibrated, by split.
        info: the data set.
        chosen: temperature and operating point.
        history: rows of `history.csv`; None if the training is not known.
        config: the run's settings; None if they are not known. Then there is
            no model card either.
        seed: of the bootstrap.
        context: what else is known.
    """
    names, positive = info.class_names, info.positive_index
    temperature = chosen.temperature
    operating_point = chosen.operating_point
    predictions = {
        split: dataclasses.replace(p, temperature=temperature)
        for split, p in predictions.items()
    }
    judged = {split: p.select(p.is_finite) for split, p in predictions.items()}
    splits = {
        split: _evaluate_split(split, p, info, operating_point, seed, context)
        for split, p in predictions.items()
    }
    shown = findings.shown_split(predictions)
    found = {
        "schema_version": METRICS_SCHEMA_VERSION,
        "subject": context.subject,
        "class_names": list(names),
        "positive_class": info.positive_class,
        "temperature": temperature,
        "operating_point": operating_point,
        "operating_point_rule": chosen.rule,
        "dataset_fingerprint": info.fingerprint,
        "verdict": findings.verdict(splits[shown], names, positive),
        "caveats": [
            *context.notes,
            *findings.caveats(
                info,
                predictions,
                splits,
                chosen.note,
                context.cross_validation,
            ),
            *(context.audit.alarms if context.audit else ()),
        ],
        "shown": shown,
        "splits": splits,
    }
    for name in ("cross_validation", "comparison"):
        if getattr(context, name) is not None:
            found[name] = getattr(context, name)
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
    }
    if config is not None:
        texts["model_card.md"] = page.model_card(found, info, config)
    files = _figures(judged, info, history, found)
    texts["report.html"] = page.report(
        found, info, config, predictions[shown], files, context
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
    answered_columns = {
        name: [values[i] for i in np.flatnonzero(answered)]
        for name, values in columns.items()
    }
    if columns:
        found["subgroups"] = {
            name: subgroups.compute_subgroups(
                judged,
                values,
                found["metrics"],
                names,
                positive,
                operating_point,
                seed,
            )
            for name, values in answered_columns.items()
        }
    if subgroups.KINSHIP in columns and scores:
        kin = np.array(answered_columns[subgroups.KINSHIP], dtype=object)
        for value, part in found["subgroups"][subgroups.KINSHIP].items():
            part["baselines"] = baselines_lib.compare(
                judged.select(kin == value),
                {name: found[kin == value] for name, found in scores.items()},
                positive,
                seed=seed,
            )
    if context.out_of_distribution and split in context.out_of_distribution:
        scores = context.out_of_distribution[split]
        scores = scores[np.isfinite(scores)]
        found["out_of_distribution"] = {
            "num_images": len(scores),
            "num_flagged": int(np.sum(scores > 1)),
            "median_score": float(np.median(scores)) if len(scores) else None,
        }
    return found


def _figures(judged, info, history, found) -> dict[str, bytes]:
    names, positive = info.class_names, info.positive_index
    shown = found["splits"][found["shown"]]
    figures = {
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
    }
    if history is not None:
        figures["training_history.png"] = plots.training_history(history)
    return figures
