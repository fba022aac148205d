r"""Turns a folder of images into TFRecord shards, `dataset.json` and an audit.

    python -m trainer.data.build_records --input_dir=scans --output_dir=records

Workers import this module, so nothing slow is imported at its top; TensorFlow
is not imported at all.
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence

from absl import app, flags

from trainer import startup
from trainer.data import records
from trainer.data.build import (
    audit,
    beam,
    leaks,
    manifest,
    output,
    parallel,
    planning,
    scan,
    shards,
    shortcuts,
    sources,
    splits,
    training_images,
    workers,
)
from trainer.data.images import readers
from trainer.storage import paths, staging

STORED_SIZE = 256
LOCAL = "local"
VALIDATION_FRACTION = 0.15
TEST_FRACTION = 0.15


def build(
    input_dir: str,
    output_dir: str,
    *,
    manifest_path: str = "",
    columns: Sequence[str] = (),
    patient_regex: str = "",
    stored_size: int = STORED_SIZE,
    channels: int = 0,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    num_folds: int = 0,
    fold: int = 0,
    previous_dir: str = "",
    positive_class: str = "",
    on_leak: str = "error",
    skip_unreadable: bool = False,
    window_center: float | None = None,
    window_width: float | None = None,
    slice_axis: int = 2,
    num_workers: int = 0,
    runner: str = LOCAL,
    beam_options: Sequence[str] = (),
) -> records.DatasetInfo:
    """Builds a data set.

    Args:
        input_dir: a folder per class, or train, validation and test folders
            with a folder per class each; "" if there is a manifest.
        output_dir: where shards, `dataset.json`, `audit.json`, `images.csv`
            and `unreadable.csv` go. A data set that is already there is
            replaced once the new one is complete.
        manifest_path: a CSV, see `manifest`.
        columns: further columns of the manifest to keep in `columns.csv`, to
            judge a model by their values.
        patient_regex: finds the patient id in a path, "" if none does.
        stored_size: short side of stored training images, in pixels.
        channels: 1 or 3; 0 for 1 if all images are grey, else 3.
        validation_fraction: of all images, where no split is given.
        test_fraction: of all images, where no split is given.
        seed: of the splits and of the order of training images.
        num_folds: parts for cross-validation, 0 for none.
        fold: which of them is the test split, from 0.
        previous_dir: data directory of an earlier build whose images keep
            their split; `output_dir`, if it was built with the same split
            options, where this is "".
        positive_class: of two classes; chosen by name if "".
        on_leak: what to do if given splits share patients or copies, one of
            `leaks.REMEDIES`.
        skip_unreadable: leave unreadable files out instead of stopping.
        window_center: see `readers.read_images`.
        window_width: see `readers.read_images`.
        slice_axis: see `readers.read_images`.
        num_workers: processes; one per core if 0.
        runner: `LOCAL`, or the name of an Apache Beam runner.
        beam_options: of that runner, for example `--region=europe-west4`.

    Returns:
        What `dataset.json` holds.

    Raises:
        FileNotFoundError: if there is no such folder or manifest.
        ValueError: if the images or the options cannot make a data set.
        OSError: if the disk is full, or a worker died.
    """
    split_options = splits.SplitOptions(
        validation_fraction, test_fraction, seed, num_folds, fold
    )
    options = {
        **dataclasses.asdict(split_options),
        # Not the expression: it may spell out a part of the ids.
        "patients_from_path": bool(patient_regex),
        "on_leak": on_leak,
        "skip_unreadable": skip_unreadable,
        "window_center": window_center,
        "window_width": window_width,
        "slice_axis": slice_axis,
    }
    readers.check_window(window_center, window_width)
    found, num_left_out = _list_sources(
        input_dir, output_dir, manifest_path, columns, patient_regex, runner
    )
    class_names = sources.check_classes(found)
    positive_class = _check_positive_class(positive_class, class_names)
    num_workers = num_workers or parallel.default_num_workers()
    read_options = scan.ReadOptions(window_center, window_width, slice_axis)
    form = training_images.TrainingFormat(stored_size, channels)
    local_dir = output_dir
    if paths.is_remote(output_dir):
        local_dir = tempfile.mkdtemp()
        beam.delete_folder(paths.join(output_dir, output.BUILDING))
        beam.fetch(output_dir, output.EARLIER_FILES, local_dir)
    previous = output.read_previous_splits(
        previous_dir or local_dir, None if previous_dir else options
    )
    with (
        output.building(local_dir) as building,
        tempfile.TemporaryFile(dir=building) as spool_file,
    ):
        shard_dir = building
        if local_dir != output_dir:
            shard_dir = paths.join(output_dir, output.BUILDING)
        if runner == LOCAL:
            passes = workers.LocalRunner(read_options, num_workers, spool_file)
        else:
            passes = beam.BeamRunner(
                read_options, runner, beam_options, shard_dir
            )
        findings = planning.examine(
            functools.partial(passes.scan, found, form),
            num_workers=num_workers,
            directory=building,
        )
        if findings.unreadable and not (skip_unreadable and findings.facts):
            output.refuse_unreadable(
                local_dir, findings.unreadable, len(findings.facts)
            )
        plan = planning.make_plan(
            findings, class_names, previous, split_options, on_leak
        )
        members = plan.members
        shortcut_rows = parallel.run_beside(
            shortcuts.measure_shortcuts,
            *shortcuts.sample_images(findings.facts, findings.group_names),
            class_names,
            num_workers=num_workers,
        )
        channels = channels or max(m.facts.channels for m in members)
        written = passes.write(
            shard_dir,
            shards.plan_shards(
                members, [source.path for source in found], channels, seed
            ),
            dataclasses.replace(form, channels=channels),
        )
        report = audit.make_audit(
            findings, plan, shortcut_rows(), on_leak, num_left_out
        )
        output.write_reports(
            building,
            report,
            members,
            findings.unreadable,
            columns,
            [source.columns for source in found],
        )
        info = records.DatasetInfo(
            class_names=class_names,
            positive_class=positive_class,
            channels=channels,
            stored_size=stored_size,
            counts=plan.counts,
            shards=tuple(written),
            fingerprint=records.compute_fingerprint(
                (m.image_id, m.facts.sha256, m.label, m.split) for m in members
            ),
            options=options,
            leaks=plan.leaks.num_held_out if on_leak == "allow" else 0,
        )
        dataset_path = os.path.join(building, records.DATASET_FILE)
        paths.write_atomically(dataset_path, info.to_json())
        output.publish(building)
    if local_dir != output_dir:
        beam.publish(
            local_dir, shard_dir, output_dir, [shard.name for shard in written]
        )
        shutil.rmtree(local_dir)
    return info


def _list_sources(
    input_dir: str,
    output_dir: str,
    manifest_path: str,
    columns: Sequence[str],
    patient_regex: str,
    runner: str,
) -> tuple[list[sources.Source], int]:
    """What to read, and how many files lie where no class is named."""
    for path in (input_dir, output_dir):
        if paths.is_remote(path) and runner == LOCAL:
            raise ValueError(
                f"{path} is not on this machine, nor in Cloud Storage "
                "(gs://): copy it, or choose a --runner of Apache Beam."
            )
    if bool(input_dir) == bool(manifest_path):
        raise ValueError(
            "Either --input_dir or --manifest says where the images are. "
            f"Received: input_dir={input_dir!r}, manifest={manifest_path!r}."
        )
    if columns and not manifest_path:
        raise ValueError(
            "--columns are those of a --manifest; folders have none."
        )
    num_left_out = 0
    if manifest_path:
        output.check_output_dir(output_dir, "")
        found = manifest.read_manifest(manifest_path, columns=columns)
    elif paths.is_remote(input_dir):
        output.check_output_dir(output_dir, "")
        names = beam.list_files(input_dir)
        found = sources.arrange_files(input_dir, names)
        num_left_out = len(names) - len(found)
    else:
        output.check_output_dir(output_dir, input_dir)
        found = sources.list_folders(input_dir)
        num_left_out = sources.count_left_out(input_dir)
    if patient_regex:
        found = sources.find_patients(found, patient_regex)
    return found, num_left_out


def _check_positive_class(
    positive_class: str, class_names: tuple[str, ...]
) -> str | None:
    if not positive_class:
        return records.default_positive_class(class_names)
    if positive_class not in class_names or len(class_names) != 2:
        raise ValueError(
            "--positive_class must be one of two classes. Received: "
            f"{positive_class}; the classes are {list(class_names)}."
        )
    return positive_class


def _summarize(info: records.DatasetInfo) -> str:
    width = max(len(name) for name in (*info.class_names, "class"))
    lines = [f"{'class':<{width}}" + "".join(f"{s:>12}" for s in info.splits)]
    for name in info.class_names:
        cells = "".join(f"{info.counts[s][name]:>12,}" for s in info.splits)
        lines.append(f"{name:<{width}}{cells}")
    kind = "grey (one channel)" if info.channels == 1 else "colour"
    lines.append(f"stored as {kind}")
    return "\n".join(lines)


def _define_flags() -> None:
    flags.DEFINE_string(
        "input_dir",
        "",
        "Folder with a folder of images per class, or with train, validation "
        "and test folders that hold those.",
    )
    flags.DEFINE_string(
        "manifest",
        "",
        "CSV instead of --input_dir: path,label[,patient_id][,split], with "
        "paths relative to it.",
    )
    flags.DEFINE_list(
        "columns",
        [],
        "Further columns of the manifest to keep, for example sex,scanner: "
        "the report then judges the model by their values. Their content is "
        "copied as it is, so name none that identifies a patient.",
    )
    flags.DEFINE_string(
        "output_dir", None, "Where the data set goes.", required=True
    )
    flags.DEFINE_string(
        "patient_regex",
        "",
        "Regular expression that finds the patient id in the relative path: "
        "its first group, or all of it. Images of a patient share a split.",
    )
    flags.DEFINE_integer(
        "stored_size",
        STORED_SIZE,
        "Short side of stored training images, in pixels; smaller images are "
        "not enlarged.",
        lower_bound=8,
    )
    flags.DEFINE_enum(
        "channels", "auto", ("auto", "1", "3"), "auto: 1 if all are grey."
    )
    flags.DEFINE_float(
        "validation_fraction",
        VALIDATION_FRACTION,
        "Share of the images to validate on, where no split is given.",
    )
    flags.DEFINE_float(
        "test_fraction",
        TEST_FRACTION,
        "Share of the images to test on, where no split is given.",
    )
    flags.DEFINE_integer("seed", 0, "Of the splits and the order.")
    flags.DEFINE_integer(
        "num_folds", 0, "Parts for cross-validation; 0: no cross-validation."
    )
    flags.DEFINE_integer("fold", 0, "Which part is the test split, from 0.")
    flags.DEFINE_string(
        "previous",
        "",
        "Data directory of an earlier build; its images keep their split. "
        "Default: --output_dir, if it was built with the same split flags.",
    )
    flags.DEFINE_string(
        "positive_class",
        "",
        "The positive one of two classes; default: the last, and X of no_X "
        "and X.",
    )
    flags.DEFINE_enum(
        "on_leak",
        "error",
        leaks.REMEDIES,
        "If given splits share patients or copies: stop, move the whole group "
        "to the split of its test member, drop the leaking training images, "
        "or allow it and say so in every report.",
    )
    flags.DEFINE_bool(
        "skip_unreadable", False, "Leave unreadable files out and go on."
    )
    flags.DEFINE_float(
        "window_center",
        None,
        "Middle of the window that values of more than 8 bits are seen "
        "through, in units of the file; default: what the file says, else "
        "robust percentiles.",
    )
    flags.DEFINE_float("window_width", None, "Its width.")
    flags.DEFINE_integer(
        "slice_axis",
        2,
        "Axis that NIfTI volumes are cut along: 0 sagittal, 1 coronal, 2 "
        "axial.",
        lower_bound=0,
        upper_bound=2,
    )
    flags.DEFINE_integer(
        "num_workers", 0, "Processes; 0: one per core.", lower_bound=0
    )
    flags.DEFINE_string(
        "runner",
        LOCAL,
        "local: the cores of this machine, which copies what is in gs:// here "
        "first; else a runner of Apache Beam, for example direct or dataflow, "
        "which works in the bucket.",
    )
    flags.DEFINE_multi_string(
        "beam_options",
        [],
        "An option of that runner, for example --beam_options=--region=X; may "
        "be given several times.",
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    startup.set_up_logging(os.path.dirname(os.path.dirname(__file__)))
    with staging.Workspace() as place:
        _run(place)


def _run(place: staging.Workspace) -> None:
    values = flags.FLAGS
    input_dir, output_dir = values.input_dir, values.output_dir
    manifest_path, previous_dir = values.manifest, values.previous
    try:
        if values.runner == LOCAL:
            output.check_output_dir(output_dir, "")
            output_dir = place.output(
                output_dir, records.DATASET_FILE, output.EARLIER_FILES
            )
            input_dir = place.stage(input_dir, "input_dir")
            manifest_path = _stage_manifest(place, manifest_path)
            previous_dir = place.stage(
                previous_dir, "previous", output.EARLIER_FILES.__contains__
            )
        info = build(
            input_dir,
            output_dir,
            manifest_path=manifest_path,
            columns=[name.strip().lower() for name in values.columns],
            patient_regex=values.patient_regex,
            stored_size=values.stored_size,
            channels=0 if values.channels == "auto" else int(values.channels),
            validation_fraction=values.validation_fraction,
            test_fraction=values.test_fraction,
            seed=values.seed,
            num_folds=values.num_folds,
            fold=values.fold,
            previous_dir=previous_dir,
            positive_class=values.positive_class,
            on_leak=values.on_leak,
            skip_unreadable=values.skip_unreadable,
            window_center=values.window_center,
            window_width=values.window_width,
            slice_axis=values.slice_axis,
            num_workers=values.num_workers,
            runner=values.runner,
            beam_options=values.beam_options,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"build_records: {error}")
    audit_path = paths.join(output_dir, output.AUDIT_FILE)
    print(_summarize(info))
    read_bytes = paths.read_bytes
    if values.runner != LOCAL:
        read_bytes = beam.read_bytes
    for line in audit.summarize(json.loads(read_bytes(audit_path))):
        print(f"- {line}")
    shown = paths.as_given(audit_path)
    print(f"Written to {values.output_dir}; {shown} has the details.")


def _stage_manifest(place: staging.Workspace, path: str) -> str:
    """A local copy of a manifest and of the images that it names."""
    if not path.startswith("gs://"):
        return path
    listed = manifest.read_paths(place.stage_file(path, "manifest"))
    folder, name = os.path.split(path)
    wanted = {name, *map(os.path.normpath, listed)}
    return os.path.join(
        place.stage(folder, "manifest", wanted.__contains__), name
    )


if __name__ == "__main__":
    _define_flags()
    app.run(main)
