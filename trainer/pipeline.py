"""The one place that says what happens in what order."""

import contextlib
import dataclasses
import functools
import time

import keras
import numpy as np
from absl import logging

from trainer import config, folds, train, vertex
from trainer.data import fold_records, input_pipeline, records
from trainer.data.build import output
from trainer.evaluation import (
    baselines,
    calibration,
    cross_validation,
    metrics,
    ordinal,
    studies,
)
from trainer.evaluation.predictions import Predictions, concatenate
from trainer.export import (
    blessing,
    runtime_files,
    saved_model,
    serving_module,
    signature,
    versions,
    warmup,
)
from trainer.model import classifier, out_of_distribution, saliency
from trainer.progress import Progress
from trainer.report import data_audit, page, report, tables
from trainer.report.context import Context, SplitFacts
from trainer.run import Run
from trainer.storage import locks, paths
from trainer.training import cluster, features, run_record

MODEL_FILE = "medical_image_classifier.keras"
_ENSEMBLE_NOTE = (
    "The model is the mean of {0} models, each trained without one of {0} "
    "parts of the training and validation images. Figures of validation are "
    "of all these images, each judged by the one model that had not seen it; "
    "threshold and temperature were chosen on them."
)


def run(cfg: config.TrainConfig) -> str:
    """Trains, evaluates and exports; goes on where an earlier run stopped.

    Args:
        cfg: what to do.

    Returns:
        Directory of the exported version; empty if this process is not the
        one that exports.

    Raises:
        FileNotFoundError: if data or weights are missing.
        ValueError: if data, weights, job directory or hardware do not fit the
            configuration.
        FileExistsError: if another run writes to the job directory.
    """
    # What comes after hours of training is checked before.
    runtime_files.require_converters(cfg.export_formats.split(","))
    calibration.parse_rule(cfg.operating_point)
    metrics.parse_prevalences(cfg.prevalences.split(","))
    _read_columns(cfg)
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    if "train" not in info.splits or "validation" not in info.splits:
        raise ValueError(
            f"{cfg.data_dir} has the splits {', '.join(info.splits)}; training "
            "needs train and validation: build the records again."
        )
    studies.parse_rule(cfg.study_rule, info.num_classes)
    ordinal.parse_order(cfg.ordinal, info.class_names)
    if cfg.ensemble and "test" not in info.splits:
        raise ValueError(
            f"{cfg.data_dir} has no test split, without which nothing judges "
            "the mean of the models of the folds: build the records with one, "
            "or train without --ensemble."
        )
    if cluster.is_evaluator():
        logging.info(
            "The chief evaluates when it has trained: the evaluator has "
            "nothing to do."
        )
        return ""
    lock = contextlib.nullcontext()
    if cluster.is_chief() and not paths.is_remote(cfg.job_dir):
        lock = locks.held(cfg.job_dir, f"--job_dir={cfg.job_dir}")
    with lock:
        return _train_and_export(cfg, info)


def _train_and_export(
    cfg: config.TrainConfig, info: records.DatasetInfo
) -> str:
    strategy = train.set_up(cfg)
    by_fold = folds.train_folds(cfg, info, strategy)
    if cfg.ensemble:
        trained = train.predict_mean(
            cfg,
            info,
            strategy,
            [fold.weights for fold in by_fold],
            [fold.predictions["test"] for fold in by_fold],
        )
    else:
        trained = train.train_and_predict(cfg, info, strategy)
    # Outside the scope: what one worker does alone must create no variables
    # that the others would have to create with it.
    if not trained.run.is_chief:
        return ""
    with Progress(4, "evaluate and export", "steps") as bar:
        start = time.monotonic()
        members = _members(trained)
        detector = None
        if cfg.detector:
            detector = _make_detector(trained.run, members[0])
        bar.update(1)
        evaluation = _evaluate(
            trained,
            members[0],
            detector,
            [fold.predictions for fold in by_fold],
        )
        logging.info(
            "evaluate  took %.0f s beyond prediction", time.monotonic() - start
        )
        bar.update(1)
        judged = evaluation.findings.splits["validation"].metrics
        vertex.report_metrics(
            {name: metric.value for name, metric in judged.items()},
            step=len(trained.rows),
        )
        version_dir = _export(trained.run, members, detector, evaluation)
        bar.update(1)
        _bless(trained.run, version_dir)
    paths.write_atomically(paths.join(cfg.job_dir, paths.SUCCESS_FILE), b"")
    return version_dir


def _members(trained: train.Trained) -> list[keras.Model]:
    """The models whose mean is exported, mostly one, as they are served."""
    members = []
    for weights in trained.members or [trained.run.model.get_weights()]:
        trained.run.model.set_weights(weights)
        members.append(trained.run.copy_for_inference())
    return members


def _read_columns(cfg: config.TrainConfig) -> dict[str, dict[str, str]]:
    names = [name for name in cfg.subgroups.split(",") if name]
    return output.read_columns(cfg.data_dir, names)


def _evaluate(
    trained: train.Trained,
    model: keras.Model,
    detector: out_of_distribution.Detector | None,
    by_fold: list[dict[str, Predictions]],
) -> report.Evaluation:
    """Writes `job_dir/evaluation`."""
    run, cfg = trained.run, trained.run.cfg
    directory = paths.join(cfg.job_dir, "evaluation")
    context = _report_context(run, model, detector)
    if by_fold:
        decided = [
            cross_validation.decide(
                fold,
                run.info.class_names,
                run.info.positive_index,
                cfg.operating_point,
            )
            for fold in by_fold
        ]
        paths.write_atomically(
            paths.join(directory, "cross_validation.csv"),
            tables.predictions_csv(
                {f"fold {i}": p for i, p in enumerate(decided, start=1)}
            ),
        )
        context = dataclasses.replace(
            context,
            cross_validation=cross_validation.summarize(
                decided, context.prevalences, cfg.seed
            ),
            out_of_fold=concatenate(decided),
            read_by_id=run.read_by_id,
        )
    evaluation = report.evaluate(
        trained.predictions,
        run.info,
        trained.rows or None,
        cfg.settings,
        cfg.operating_point,
        cfg.seed,
        context,
        study_rule=cfg.study_rule,
        coverage=cfg.coverage,
    )
    for name, content in evaluation.files.items():
        paths.write_atomically(paths.join(directory, name), content)
    for name, split in evaluation.findings.splits.items():
        logging.info(
            "evaluate  %s: %d images, accuracy %s, ROC AUC %s",
            name,
            split.num_images,
            page.format_metric(split.metrics["accuracy"]),
            page.format_metric(split.metrics["roc_auc"]),
        )
    logging.info("evaluate  %s", paths.join(directory, "report.html"))
    return evaluation


def _report_context(
    run: Run,
    model: keras.Model,
    detector: out_of_distribution.Detector | None,
) -> Context:
    """What the report tells beside predictions."""
    images = {
        split: baselines.describe_images(
            input_pipeline.iterate_encoded(run.files(split)),
            run.index[split].labels,
        )
        for split in run.info.splits
    }
    columns = _read_columns(run.cfg)
    is_ensemble = run.cfg.ensemble
    trained_on = ["train", "validation"] if is_ensemble else ["train"]
    shown = "test" if "test" in run.info.splits else "validation"
    facts = {
        split: SplitFacts(
            baselines=baselines.make_baselines(
                images["train"],
                images[split],
                run.info.num_classes,
                images["validation"] if split == "test" else None,
            ),
            columns={
                name: [value_of.get(i, "") for i in run.index[split].ids]
                for name, value_of in columns.items()
            },
            unlikeness=_unlikeness(run, model, detector, split)
            if detector and split == shown
            else None,
        )
        for split in run.info.splits
        if split not in trained_on
    }
    return Context(
        prevalences=metrics.parse_prevalences(run.cfg.prevalences.split(",")),
        splits=facts,
        train_groups=frozenset(
            group for split in trained_on for group in run.index[split].groups
        ),
        read_images=lambda split, indices: input_pipeline.read_encoded(
            run.files(split), indices
        ),
        explain=functools.partial(saliency.explain_images, model),
        audit=data_audit.read_audit(run.cfg.data_dir, run.read_by_id),
        starts=run_record.read_starts(run.cfg.job_dir),
        ranks=ordinal.parse_order(run.cfg.ordinal, run.info.class_names),
        notes=(_ENSEMBLE_NOTE.format(run.cfg.num_folds),)
        if is_ensemble
        else (),
    )


def _unlikeness(
    run: Run,
    model: keras.Model,
    detector: out_of_distribution.Detector,
    split: str,
) -> np.ndarray:
    """How unlike the training set images are; NaN for those beyond a sample."""
    num_images = run.info.num_images(split)
    chosen = out_of_distribution.choose_exemplars(num_images)
    descriptors = out_of_distribution.describe_images(
        model, input_pipeline.read_encoded(run.files(split), chosen)
    )
    scores = np.full(num_images, np.nan)
    scores[chosen] = detector.score(descriptors).numpy()
    return scores


def _export(
    run: Run,
    members: list[keras.Model],
    detector: out_of_distribution.Detector | None,
    evaluation: report.Evaluation,
) -> str:
    """Writes the Keras file and the next SavedModel version."""
    cfg, info, chosen = run.cfg, run.info, evaluation.chosen
    # Of more than two classes a patient has no threshold.
    study = chosen.study if info.positive_index is not None else None
    mean = classifier.mean_model(members)
    saved_model.save_keras(mean, paths.join(cfg.job_dir, MODEL_FILE))
    facts = {
        "weights_sha256": features.weights_sha256(mean),
        "dataset_fingerprint": info.fingerprint,
        "temperature": chosen.temperature,
        "operating_point": chosen.operating_point,
        "study": chosen.study and dataclasses.asdict(chosen.study),
        "sets": {
            "coverage": chosen.sets.coverage,
            "thresholds": list(chosen.sets.thresholds),
            "num_groups": list(chosen.sets.num_groups),
        },
        "signatures": list(signature.SIGNATURES),
        "detector": cfg.detector,
        "test_views": cfg.test_views,
        "members": len(members),
        "formats": cfg.export_formats.split(","),
    }
    export_dir = cfg.export_dir or paths.join(cfg.job_dir, "export")
    existing = versions.find_same(export_dir, facts)
    if existing:
        logging.info("export    %s holds this model already.", existing)
        return existing
    module = serving_module.ServingModule(
        members,
        class_names=info.class_names,
        positive_index=info.positive_index,
        temperature=chosen.temperature,
        operating_point=chosen.operating_point,
        detector=detector,
        window=info.window,
        num_views=cfg.test_views,
        set_thresholds=chosen.sets.thresholds,
        study=study and (study.rule, study.operating_point),
    )
    extra = {
        signature.WARMUP_FILE: warmup.make_warmup_file(
            signature.MODEL_NAME, cfg.image_size, info.channels
        )
    }
    for name in cfg.export_formats.split(",")[1:]:
        extra[signature.RUNTIME_FILES[name]] = module.convert(name)
    version_dir = saved_model.export_version(
        module,
        export_dir,
        assets={
            records.DATASET_FILE: info.to_json().encode("utf-8"),
            "model_card.md": evaluation.files["model_card.md"],
        },
        extra=extra,
        facts=facts,
    )
    logging.info("export    %s", version_dir)
    return version_dir


def _bless(run: Run, version_dir: str) -> None:
    """Tries the export in a process of its own."""
    if not blessing.refusal(version_dir):
        return
    refusal = blessing.bless_in_new_process(
        version_dir,
        run.cfg.data_dir,
        paths.join(run.cfg.job_dir, "evaluation", "predictions.csv"),
    )
    if refusal:
        logging.error("export    must not be published: %s", refusal)
    else:
        logging.info("export    blessed: it may be published.")


def _make_detector(
    run: Run, model: keras.Model
) -> out_of_distribution.Detector:
    """Knows what `model` was trained on, and from the rest what is too far."""
    files = run.files("train") + run.files("validation")
    is_known = [True] * run.info.num_images("train")
    is_known += [False] * run.info.num_images("validation")
    if run.cfg.ensemble:
        # Its first member is of the first fold.
        is_known = [
            split != "test"
            for split in fold_records.assign(
                run.index, run.info, run.cfg.num_folds, 0, run.cfg.seed
            )
        ]

    def describe(images):
        chosen = out_of_distribution.choose_exemplars(len(images))
        return out_of_distribution.describe_images(
            model, input_pipeline.read_encoded(files, images[chosen].tolist())
        )

    return out_of_distribution.fit(
        describe(np.flatnonzero(is_known)),
        describe(np.flatnonzero(np.logical_not(is_known))),
        out_of_distribution.stage_sizes(model),
    )
