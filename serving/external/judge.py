"""Evaluates models that answer encoded images on any record set.

Nothing is chosen here: temperature and threshold are those that a model was
exported with, so all of its images may judge it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from serving.external import asking
from trainer.data import input_pipeline, records
from trainer.data.build import output
from trainer.evaluation import (
    baselines,
    calibration,
    comparison,
    results,
    studies,
)
from trainer.evaluation.predictions import Decided
from trainer.report import data_audit, report
from trainer.report.context import PREVALENCES, Context, SplitFacts

# What the images are called that judge and choose nothing.
SPLIT = "test"
_RULE = "the threshold that it was exported with"


def evaluate(
    models: Sequence[asking.AskedModel],
    data_dir: str,
    *,
    splits: Sequence[str] = (),
    subgroups: Sequence[str] = (),
    prevalences: tuple[float, ...] = PREVALENCES,
    batch_size: int = 32,
    seed: int = 0,
) -> report.Evaluation:
    """Judges a model, and compares it with another one.

    Args:
        models: the one to judge and, if wanted, one to compare it with.
        data_dir: of the record set.
        splits: to judge by; if empty, the test split of the record set that
            the model was trained on, else all splits.
        subgroups: columns by whose values the model is judged too; if empty,
            all that the record set has.
        prevalences: at which predictive values are reported.
        batch_size: images in a call of a model.
        seed: of the bootstrap.

    Raises:
        FileNotFoundError: if there is no record set.
        ValueError: if it is damaged, lacks the splits, or has classes that a
            model does not know.
    """
    info = input_pipeline.read_dataset_info(data_dir)
    splits, notes = _choose_splits(models, info, tuple(splits))
    index = input_pipeline.read_index(data_dir, info)
    images = _collect(data_dir, info, index, splits)
    columns = output.read_columns(data_dir, subgroups)
    # What is wrong is told before all images are asked about.
    for model in models:
        if model.class_names is not None:
            asking.check_classes(model, model.class_names, images)
    _check_same(models, [model.class_names for model in models])
    answers = [asking.ask_all(model, images, batch_size) for model in models]
    decided = [
        asking.interpret(model, of_model, images)
        for model, of_model in zip(models, answers, strict=True)
    ]
    is_own = models[0].dataset_fingerprint == info.fingerprint
    facts = SplitFacts(
        baselines=_baselines(data_dir, info, index)
        if is_own and splits == ("test",)
        else {},
        columns={
            name: [value_of.get(i, "") for i in images.ids]
            for name, value_of in columns.items()
        },
        unlikeness=answers[0].unlikeness,
    )
    context = Context(
        prevalences=prevalences,
        splits={SPLIT: facts},
        train_groups=frozenset(index["train"].groups if is_own else ()),
        read_images=lambda _, indices: input_pipeline.read_encoded(
            images.files, indices
        ),
        explain=models[0].explain and (lambda e, _: models[0].explain(e)),
        audit=data_audit.read_audit(
            data_dir, functools.partial(_read_by_id, images)
        ),
        comparison=_compare(models, decided, seed) if decided[1:] else None,
        subject=f"{models[0].name} on {', '.join(splits)} of {data_dir}",
        notes=notes,
    )
    return _report(models[0], decided[0], info, seed, context)


def _report(
    model: asking.AskedModel,
    decided: Decided,
    info: records.DatasetInfo,
    seed: int,
    context: Context,
) -> report.Evaluation:
    names, positive = decided.class_names, decided.positive_index
    info = dataclasses.replace(
        info,
        class_names=names,
        positive_class=None if positive is None else names[positive],
    )
    study = model.study
    if not studies.has_several(decided.groups):
        study = None
    chosen = calibration.Chosen(
        1.0, decided.operating_point, _RULE, study=study, sets=model.sets
    )
    return report.judge(
        {SPLIT: decided}, info, chosen, seed=seed, context=context
    )


def _choose_splits(
    models: Sequence[asking.AskedModel],
    info: records.DatasetInfo,
    splits: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The splits to judge by, and what to know of the choice."""
    unknown = [name for name in splits if name not in info.splits]
    if unknown:
        raise ValueError(
            f"The record set has no images of {', '.join(unknown)}: choose "
            f"--splits from {', '.join(info.splits)}."
        )
    trained = [
        model.name
        for model in models
        if model.dataset_fingerprint == info.fingerprint
    ]
    if not splits:
        only_test = trained and "test" in info.splits
        splits = ("test",) if only_test else info.splits
    seen = [name for name in splits if name != "test"]
    if not (trained and seen):
        return splits, ()
    return splits, (
        f"{' and '.join(trained)} was made with the images of "
        f"{' and '.join(seen)}: the figures are too good.",
    )


def _collect(data_dir, info, index, splits) -> asking.Images:
    files, ids, groups, class_names = [], [], [], []
    for split in splits:
        files += input_pipeline.split_files(data_dir, info, split)
        ids += index[split].ids
        groups += index[split].groups
        class_names += [info.class_names[i] for i in index[split].labels]
    return asking.Images(files, ids, groups, class_names, info.positive_class)


def _read_by_id(
    images: asking.Images, image_ids: Sequence[str]
) -> dict[str, bytes]:
    wanted = set(image_ids)
    places = [i for i, name in enumerate(images.ids) if name in wanted]
    encoded = input_pipeline.read_encoded(images.files, places)
    return {images.ids[i]: e for i, e in zip(places, encoded, strict=True)}


def _check_same(
    models: Sequence[asking.AskedModel],
    class_names: Sequence[tuple[str, ...] | None],
    positive_indices: Sequence[int | None] = (),
) -> None:
    """Refuses models of other classes, as far as these are known."""
    if None in class_names or (
        len(set(class_names)) < 2 and len(set(positive_indices)) < 2
    ):
        return
    listed = [
        f"{model.name} has {', '.join(names)}"
        for model, names in zip(models, class_names, strict=True)
    ]
    end = (
        "." if len(set(class_names)) > 1 else "; their positive classes differ."
    )
    raise ValueError(
        "Two models can be compared that tell the same classes apart. "
        f"{', '.join(listed)}{end}"
    )


def _compare(
    models: Sequence[asking.AskedModel], decided: Sequence[Decided], seed: int
) -> results.Comparison:
    this, other = decided
    _check_same(
        models,
        [d.class_names for d in decided],
        [d.positive_index for d in decided],
    )
    names = models[0].name, models[1].name
    return comparison.compare(this, other, names, seed=seed)


def _baselines(data_dir, info, index) -> Mapping[str, np.ndarray]:
    """Trivial baselines, which learn from the model's training images."""
    images = {
        split: baselines.describe_images(
            input_pipeline.iterate_encoded(
                input_pipeline.split_files(data_dir, info, split)
            ),
            index[split].labels,
        )
        for split in info.splits
    }
    return baselines.make_baselines(
        images["train"],
        images["test"],
        info.num_classes,
        images.get("validation"),
    )
