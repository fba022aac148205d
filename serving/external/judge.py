"""Evaluates models that answer encoded images on any record set.

Nothing is chosen here: temperature and threshold are those that a model was
exported with, so all of its images may judge it.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence

from absl import logging

from serving.external import asking
from trainer.data import input_pipeline
from trainer.data.build import output
from trainer.evaluation import baselines, calibration, comparison
from trainer.report import data_audit, report
from trainer.report.context import PREVALENCES, Context

# What the images are called that judge and choose nothing.
SPLIT = "test"
_RULE = "the threshold that it was exported with"


@dataclasses.dataclass(frozen=True)
class _Images:
    """The images of some splits, in the order of their records.

    Attributes:
        files: of all of them.
        ids: likewise.
        groups: likewise.
        class_names: their true classes.
    """

    files: list[str]
    ids: list[str]
    groups: list[str]
    class_names: list[str]


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
    judgeable, unlike = [], None
    for model in models:
        answers = _ask(model, images, batch_size)
        judgeable.append(
            asking.interpret(
                model,
                answers,
                images.ids,
                images.groups,
                images.class_names,
                info.positive_class,
            )
        )
        unlike = answers.unlike if unlike is None else unlike
    this = judgeable[0]
    is_own = models[0].dataset_fingerprint == info.fingerprint
    context = Context(
        prevalences=prevalences,
        columns={
            name: {SPLIT: [value_of.get(i, "") for i in images.ids]}
            for name, value_of in columns.items()
        },
        baselines=_baselines(data_dir, info, index)
        if is_own and splits == ("test",)
        else None,
        train_groups=frozenset(index["train"].groups)
        if is_own
        else frozenset(),
        read_images=lambda _, indices: input_pipeline.read_encoded(
            images.files, indices
        ),
        explain=_explain(models[0]),
        out_of_distribution=None if unlike is None else {SPLIT: unlike},
        audit=data_audit.read_audit(
            data_dir, functools.partial(_read_by_id, images)
        ),
        comparison=_compare(models, judgeable, seed),
        subject=f"{models[0].name} on {', '.join(splits)} of {data_dir}",
        notes=tuple(notes),
    )
    return report.judge(
        {SPLIT: this.predictions},
        dataclasses.replace(
            info,
            class_names=this.class_names,
            positive_class=None
            if this.positive_index is None
            else this.class_names[this.positive_index],
        ),
        calibration.Chosen(1.0, this.operating_point, _RULE),
        seed=seed,
        context=context,
    )


def _choose_splits(models, info, splits) -> tuple[tuple[str, ...], list[str]]:
    """The splits to judge by, and what to know of the choice."""
    trained = [
        model.name
        for model in models
        if model.dataset_fingerprint == info.fingerprint
    ]
    unknown = [name for name in splits if name not in info.splits]
    if unknown:
        raise ValueError(
            f"The record set has no images of {', '.join(unknown)}: choose "
            f"--splits from {', '.join(info.splits)}."
        )
    if not splits:
        splits = info.splits
        if trained and "test" in info.splits:
            splits = ("test",)
    notes = []
    seen = [name for name in splits if name != "test"]
    if trained and seen:
        notes.append(
            f"{' and '.join(trained)} was made with the images of "
            f"{' and '.join(seen)}: the figures are too good."
        )
    return splits, notes


def _collect(data_dir, info, index, splits) -> _Images:
    files, ids, groups, class_names = [], [], [], []
    for split in splits:
        files += input_pipeline.split_files(data_dir, info, split)
        ids += index[split].ids
        groups += index[split].groups
        class_names += [info.class_names[i] for i in index[split].labels]
    return _Images(files, ids, groups, class_names)


def _read_by_id(images: _Images, image_ids: Sequence[str]) -> dict[str, bytes]:
    wanted = set(image_ids)
    places = [i for i, name in enumerate(images.ids) if name in wanted]
    encoded = input_pipeline.read_encoded(images.files, places)
    return {images.ids[i]: e for i, e in zip(places, encoded, strict=True)}


def _ask(model, images: _Images, batch_size: int) -> asking.Answers:
    start = time.monotonic()
    shown = start

    def report_progress(done):
        nonlocal shown
        if time.monotonic() - shown > 10 or done == len(images.ids):
            shown = time.monotonic()
            rate = done / (shown - start)
            logging.info(
                "%s: %d of %d images, %.0f images/s",
                model.name,
                done,
                len(images.ids),
                rate,
            )

    return asking.ask_all(
        model,
        input_pipeline.iterate_encoded(images.files),
        batch_size,
        report_progress,
    )


def _explain(model: asking.AskedModel):
    if model.explain is None:
        return None
    return lambda images, _: model.explain(images)


def _compare(models, judgeable, seed) -> dict | None:
    if len(judgeable) < 2:
        return None
    this, other = judgeable
    if (this.class_names, this.positive_index) != (
        other.class_names,
        other.positive_index,
    ):
        raise ValueError(
            f"Two models can be compared that tell the same classes apart. "
            f"{models[0].name} has {', '.join(this.class_names)}, "
            f"{models[1].name} has {', '.join(other.class_names)}"
            + (
                "; their positive classes differ."
                if this.class_names == other.class_names
                else "."
            )
        )
    found = comparison.compare(
        this.predictions,
        other.predictions,
        this.class_names,
        this.positive_index,
        (this.operating_point, other.operating_point),
        seed=seed,
    )
    names = {"this": models[0].name, "other": models[1].name}
    sentences = comparison.verdict(found, *names.values())
    return names | found | {"verdict": sentences}


def _baselines(data_dir, info, index) -> dict:
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
    found = baselines.make_baselines(images, info.num_classes)
    return {name: {SPLIT: part["test"]} for name, part in found.items()}
