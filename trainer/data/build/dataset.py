"""A build from its options to a complete data set, step by step."""

import dataclasses
import functools
import os
import shutil
import tempfile
from typing import BinaryIO

from trainer.data import records
from trainer.data.build import (
    audit,
    corrections,
    manifest,
    masks,
    output,
    parallel,
    planning,
    positive_class,
    shards,
    shortcuts,
    sources,
    workers,
)
from trainer.data.build.options import LOCAL, BuildOptions
from trainer.storage import paths


def build(options: BuildOptions) -> records.DatasetInfo:
    """Builds a data set and returns what its `dataset.json` holds.

    A data set that is already in the output directory is replaced once the
    new one is complete.

    Raises:
        FileNotFoundError: if there is no such folder or manifest.
        ValueError: if the images or the options cannot make a data set.
        OSError: if the disk is full, or a worker died.
    """
    listing = _list_sources(options)
    files = listing.files
    class_names = sources.check_classes(files)
    positive = _choose_positive_class(options, class_names)
    num_workers = options.num_workers or parallel.default_num_workers()
    local_dir = options.output_dir
    if paths.is_remote(local_dir):
        local_dir = output.fetch_earlier(local_dir)
    previous = output.read_previous_splits(
        options.previous or local_dir,
        None if options.previous else options.to_record(),
    )
    with (
        output.building(local_dir) as building,
        tempfile.TemporaryFile(dir=building) as spool_file,
    ):
        shard_dir = building
        if local_dir != options.output_dir:
            shard_dir = paths.join(options.output_dir, output.BUILDING)
        passes = _make_runner(options, num_workers, spool_file, shard_dir)
        form = options.training_format
        findings = planning.examine(
            functools.partial(passes.scan, files, form), num_workers, building
        )
        has_images = bool(findings.facts)
        if findings.unreadable and not (options.skip_unreadable and has_images):
            output.refuse_unreadable(local_dir, findings.unreadable, has_images)
        findings = corrections.apply(findings, options.corrections, class_names)
        plan = planning.make_plan(
            findings, class_names, previous, options.splitting, options.on_leak
        )
        shortcut_rows = parallel.run_beside(
            shortcuts.measure_shortcuts,
            shortcuts.sample_images(findings.facts),
            class_names,
            num_workers=num_workers,
        )
        if not form.channels:
            form = dataclasses.replace(
                form, channels=max(m.facts.channels for m in plan.members)
            )
        tasks = shards.plan_shards(
            plan.members, files, form.channels, options.seed
        )
        written = passes.write(shard_dir, tasks, form)
        output.write_reports(
            building,
            audit.make_audit(
                findings, plan, shortcut_rows(), options.on_leak, listing
            ),
            plan.members,
            findings.unreadable,
            options.columns,
            files,
        )
        info = _describe(
            options, class_names, positive, form.channels, plan, written
        )
        paths.write_atomically(
            os.path.join(building, records.DATASET_FILE), info.to_json()
        )
        output.publish(building)
    if local_dir != options.output_dir:
        output.publish_remotely(
            local_dir, options.output_dir, [shard.name for shard in written]
        )
        shutil.rmtree(local_dir)
    return info


def _list_sources(options: BuildOptions) -> sources.Listing:
    input_dir, output_dir = options.input_dir, options.output_dir
    for path in (input_dir, output_dir):
        if paths.is_remote(path) and options.runner == LOCAL:
            raise ValueError(
                f"{path} is not on this machine: copy it, or, of paths in "
                "Cloud Storage (gs://), choose a --runner of Apache Beam."
            )
    output.check_output_dir(output_dir, input_dir)
    if options.manifest:
        listing = manifest.read_manifest(options.manifest, options.columns)
    elif paths.is_remote(input_dir):
        from trainer.storage import buckets

        names = sorted(buckets.Folder(input_dir).list())
        files = sources.arrange_files(input_dir, names)
        listing = sources.Listing(files, num_beside=len(names) - len(files))
    else:
        listing = sources.list_folders(input_dir)
    files, apart = listing.files, []
    if options.patient_regex:
        files = sources.find_patients(files, options.patient_regex)
    if not options.manifest:
        files, apart = masks.set_apart(files)
        if not options.patient_regex:
            files = sources.mark_subfolders(files)
        if options.keep_masks:
            files = sorted([*files, *apart], key=lambda file: file.path)
            apart = []
    return dataclasses.replace(listing, files=files, masks=apart)


def _choose_positive_class(
    options: BuildOptions, class_names: tuple[str, ...]
) -> str | None:
    chosen = options.positive_class
    if not chosen:
        return positive_class.choose(class_names)[0]
    if chosen not in class_names or len(class_names) != 2:
        raise ValueError(
            "--positive_class must be one of two classes. Received: "
            f"{chosen}; the classes are {list(class_names)}."
        )
    return chosen


def _make_runner(
    options: BuildOptions,
    num_workers: int,
    spool_file: BinaryIO,
    shard_dir: str,
):
    """What reads and writes: this machine, or the workers of Apache Beam."""
    if options.runner == LOCAL:
        return workers.LocalRunner(options.reading, num_workers, spool_file)
    try:
        from trainer.data.build import beam
    except ImportError as error:
        raise ValueError(
            "--runner needs Apache Beam: install it with "
            "`pip install 'lightbox[beam]'`."
        ) from error
    return beam.BeamRunner(
        options.reading, options.runner, options.beam_options, shard_dir
    )


def _describe(
    options: BuildOptions,
    class_names: tuple[str, ...],
    positive: str | None,
    channels: int,
    plan: planning.Plan,
    written: list[records.Shard],
) -> records.DatasetInfo:
    return records.DatasetInfo(
        class_names=class_names,
        positive_class=positive,
        channels=channels,
        stored_size=options.stored_size,
        counts=plan.counts,
        shards=tuple(written),
        fingerprint="",
        options=options.to_record(),
        leaks=plan.leaks.num_held_out if options.on_leak == "allow" else 0,
    ).with_fingerprint(
        (m.facts.image_id, m.facts.sha256, m.label, m.split)
        for m in plan.members
    )
