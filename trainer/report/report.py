"""The files of `job_dir/evaluation`."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from trainer.data import records
from trainer.evaluation import (
    baselines,
    calibration,
    label_doubts,
    metrics,
    prediction_sets,
    results,
    studies,
    subgroups,
)
from trainer.evaluation.predictions import Decided, Predictions
from trainer.report import (
    doubtful_labels,
    page,
    per_patient,
    plots,
    schema,
    sentences,
    tables,
)
from trainer.report.context import Context

_NO_CONTEXT = Context()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was found, and the files that tell it.

    Attributes:
        findings: content of `metrics.json`.
        chosen: on validation, or before.
        files: name -> content of every file to write.
    """

    findings: schema.Findings
    chosen: calibration.Chosen
    files: dict[str, bytes]


def evaluate(
    predictions: Mapping[str, Predictions],
    info: records.DatasetInfo,
    history: list[dict],
    config: dict,
    operating_point_rule: str,
    seed: int = 0,
    context: Context = _NO_CONTEXT,
    study_rule: str = studies.DEFAULT_RULE,
    coverage: float = prediction_sets.DEFAULT_COVERAGE,
) -> Evaluation:
    """Calibrates and decides on validation, and reports on every split.

    `predictions` are of "validation" and, if there is one, of "test"; for the
    rules see `calibration.parse_rule` and `studies.combine`, for the other
    arguments `judge`.
    """
    validation = predictions["validation"]
    chosen = calibration.choose(
        validation, info.positive_index, operating_point_rule
    )
    decided = _decide({"validation": validation}, info, chosen)["validation"]
    if any(studies.has_several(p.groups) for p in predictions.values()):
        study = studies.choose(decided, study_rule, operating_point_rule)
        chosen = dataclasses.replace(chosen, study=study)
    sets = prediction_sets.choose(decided, coverage)
    chosen = dataclasses.replace(chosen, sets=sets)
    return judge(predictions, info, chosen, history, config, seed, context)


def judge(
    predictions: Mapping[str, Predictions],
    info: records.DatasetInfo,
    chosen: calibration.Chosen,
    history: list[dict] | None = None,
    config: dict | None = None,
    seed: int = 0,
    context: Context = _NO_CONTEXT,
) -> Evaluation:
    """Reports on every split with what was chosen before.

    Args:
        predictions: by split.
        info: the data set.
        chosen: temperature, operating point and what else.
        history: rows of `history.csv`; None if the training is not known.
        config: the run's settings; None if they are not known. Then there is
            no model card either.
        seed: of the bootstrap.
        context: what else is known.
    """
    decided = _decide(predictions, info, chosen, context.ranks)
    findings = _find(decided, info, chosen, seed, context)
    patients = None
    if chosen.study:
        patients = per_patient.group(decided, chosen.study, context)
        findings = dataclasses.replace(
            findings,
            per_patient=_find_patients(
                decided, patients, findings.shown, chosen.study, seed
            ),
        )
    texts, doubtful = {}, None
    if context.out_of_fold is not None:
        doubted = context.out_of_fold, label_doubts.find(context.out_of_fold)
        findings = dataclasses.replace(
            findings, doubtful_labels=doubtful_labels.describe(*doubted)
        )
        doubtful = doubtful_labels.make_gallery(*doubted, context.read_by_id)
        texts["doubtful_labels.csv"] = doubtful_labels.make_csv(*doubted)
    shown, names = findings.shown, findings.class_names
    figures = _figures(decided, findings.splits, shown, names, "image")
    if patients and findings.per_patient:
        of_groups = _figures(
            patients.predictions,
            findings.per_patient.splits,
            shown,
            names,
            "patient",
        )
        figures |= {
            page.of_groups(name): png for name, png in of_groups.items()
        }
    if history is not None:
        figures["training_history.png"] = plots.training_history(history)
    texts |= {
        "metrics.json": findings.to_json(),
        "predictions.csv": tables.predictions_csv(
            decided, {split: context.of(split).unlikeness for split in decided}
        ),
        "classification_report.txt": tables.classification_report(decided),
        "report.html": page.report(
            findings,
            info,
            config,
            decided[shown],
            figures,
            context,
            patients,
            doubtful,
        ),
    }
    if patients:
        texts["predictions_by_group.csv"] = tables.predictions_csv(
            patients.predictions
        )
    if config is not None:
        texts["model_card.md"] = page.model_card(findings, info, config)
    encoded = {name: text.encode("utf-8") for name, text in texts.items()}
    return Evaluation(findings, chosen, figures | encoded)


def _decide(
    predictions: Mapping[str, Predictions],
    info: records.DatasetInfo,
    chosen: calibration.Chosen,
    ranks: tuple[int, ...] = (),
) -> dict[str, Decided]:
    return {
        split: p.decide(
            info.class_names,
            info.positive_index,
            chosen.operating_point,
            chosen.temperature,
            chosen.sets.thresholds if chosen.sets else None,
            ranks,
        )
        for split, p in predictions.items()
    }


def _find_patients(
    decided: Mapping[str, Decided],
    patients: per_patient.Patients,
    shown: str,
    study: calibration.StudyChoice,
    seed: int,
) -> schema.PerPatient:
    """The figures of images, with a group's images as one."""
    splits = {
        split: _evaluate_split(split, p, False, seed, patients.context)
        for split, p in patients.predictions.items()
    }
    of_shown = decided[shown]
    return schema.PerPatient(
        study.rule,
        study.operating_point,
        sentences.per_patient(
            study,
            splits[shown],
            shown,
            studies.num_mixed(of_shown),
            of_shown.class_names,
            of_shown.positive_index,
            of_shown.ranks,
        ),
        splits,
    )


def _find(
    decided: Mapping[str, Decided],
    info: records.DatasetInfo,
    chosen: calibration.Chosen,
    seed: int,
    context: Context,
) -> schema.Findings:
    splits = {
        split: _evaluate_split(split, p, info.leaks > 0, seed, context)
        for split, p in decided.items()
    }
    if chosen.sets and "test" in splits:
        found = prediction_sets.compute(decided["test"], chosen.sets, seed)
        found = dataclasses.replace(
            found, verdict=sentences.prediction_sets(found, chosen.sets)
        )
        splits["test"] = dataclasses.replace(
            splits["test"], prediction_sets=found
        )
    shown = "test" if "test" in splits else "validation"
    comparison = context.comparison
    if comparison is not None:
        verdict = sentences.compare(comparison)
        comparison = dataclasses.replace(comparison, verdict=verdict)
    return schema.Findings(
        schema_version=schema.METRICS_SCHEMA_VERSION,
        subject=context.subject,
        class_names=info.class_names,
        positive_class=info.positive_class,
        temperature=chosen.temperature,
        operating_point=chosen.operating_point,
        operating_point_rule=chosen.rule,
        dataset_fingerprint=info.fingerprint,
        verdict=sentences.verdict(
            splits[shown],
            info.class_names,
            info.positive_index,
            ranks=context.ranks,
        ),
        caveats=[
            *context.notes,
            *sentences.caveats(
                info,
                splits,
                decided[shown].labels,
                chosen.note,
                context.cross_validation,
            ),
            *(context.audit.alarms if context.audit else ()),
        ],
        shown=shown,
        splits=splits,
        cross_validation=context.cross_validation,
        comparison=comparison,
    )


def _evaluate_split(
    name: str, predictions: Decided, leaks: bool, seed: int, context: Context
) -> results.Split:
    """The figures of one split, of its baselines and of its subgroups."""
    facts, answered = context.of(name), predictions.is_finite
    judged = predictions.select(answered)
    split = metrics.compute_metrics(
        predictions, seed=seed, prevalences=context.prevalences
    )
    scores = {n: values[answered] for n, values in facts.baselines.items()}
    columns = {
        n: [values[i] for i in np.flatnonzero(answered)]
        for n, values in facts.columns.items()
    }
    if leaks and context.train_groups:
        columns[subgroups.KINSHIP] = subgroups.kinship(
            judged.groups, context.train_groups
        )
    parts = {
        n: subgroups.compute_subgroups(judged, values, split.metrics, seed)
        for n, values in columns.items()
    }
    if subgroups.KINSHIP in parts and scores:
        column = np.array(columns[subgroups.KINSHIP], object)
        parts[subgroups.KINSHIP] = {
            value: dataclasses.replace(
                part,
                baselines=baselines.compare(
                    judged.select(column == value),
                    {n: s[column == value] for n, s in scores.items()},
                    seed=seed,
                ),
            )
            for value, part in parts[subgroups.KINSHIP].items()
        }
    return dataclasses.replace(
        split,
        baselines=baselines.compare(judged, scores, seed=seed)
        if scores
        else None,
        subgroups=parts or None,
        out_of_distribution=None
        if facts.unlikeness is None
        else _unlikeness(facts.unlikeness),
    )


def _unlikeness(scores: np.ndarray) -> results.Unlikeness:
    scores = scores[np.isfinite(scores)]
    return results.Unlikeness(
        num_images=len(scores),
        num_flagged=int(np.sum(scores > 1)),
        median_score=float(np.median(scores)) if len(scores) else None,
    )


def _figures(
    decided: Mapping[str, Decided],
    splits: Mapping[str, results.Split],
    shown: str,
    class_names: tuple[str, ...],
    unit: str,
) -> dict[str, bytes]:
    """PNG by name; `unit` is what is judged, an image or a patient."""
    answered = {split: p.select(p.is_finite) for split, p in decided.items()}
    with plots.fonts_for(class_names):
        return {
            "confusion_matrix.png": plots.confusion_matrix(
                splits[shown].confusion_matrix,
                class_names,
                f"{shown}, {splits[shown].num_images} {unit}s",
                answered[shown].ranks,
            ),
            "roc_curve.png": plots.roc_curve(answered),
            "precision_recall_curve.png": plots.precision_recall_curve(
                answered
            ),
            "calibration.png": plots.calibration(answered),
        }
