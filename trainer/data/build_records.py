r"""Turns a folder of images into TFRecord shards, `dataset.json` and an audit.

    python -m trainer.data.build_records --input_dir=scans --output_dir=records

Workers import this module, so nothing slow is imported at its top.
"""

import collections
import csv
import dataclasses
import functools
import io
import json
import os
import secrets
import sys
from collections.abc import Sequence

import tqdm
from absl import app, flags

from trainer import storage
from trainer.data import (
    audit,
    duplicates,
    groups,
    leaks,
    output,
    parallel,
    records,
    scan,
    shards,
    sources,
    splits,
)

STORED_SIZE = 256
VALIDATION_FRACTION = 0.15
TEST_FRACTION = 0.15
AUDIT_FILE = "audit.json"
IMAGES_FILE = "images.csv"
UNREADABLE_FILE = "unreadable.csv"


def build(
    input_dir: str,
    output_dir: str,
    *,
    stored_size: int = STORED_SIZE,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    positive_class: str | None = None,
    on_leak: str = "error",
    skip_unreadable: bool = False,
    num_workers: int | None = None,
) -> records.DatasetInfo:
    """Builds a data set.

    Args:
        input_dir: a folder per class, or train, validation and test folders
            with a folder per class each.
        output_dir: where shards, `dataset.json`, `audit.json`, `images.csv`
            and `unreadable.csv` go. A data set that is already there is
            replaced once the new one is complete.
        stored_size: short side of stored training images, in pixels.
        validation_fraction: of all images, where no split is given.
        test_fraction: of all images, where no split is given.
        seed: of the splits and of the order of training images.
        positive_class: of two classes; chosen by name if None.
        on_leak: what to do if given splits share patients or copies, one of
            `leaks.REMEDIES`.
        skip_unreadable: leave unreadable files out instead of stopping.
        num_workers: processes; one per core if None.

    Returns:
        What `dataset.json` holds.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the images or the options cannot make a data set.
        OSError: if the disk is full, or a worker died.
    """
    flag_values = {k: v for k, v in locals().items() if k not in _LOCAL_OPTIONS}
    split_options = splits.SplitOptions(
        validation_fraction, test_fraction, seed
    )
    output.check_output_dir(output_dir, input_dir)
    found = sources.list_folders(input_dir)
    class_names = sources.check_classes(found)
    positive_class = _check_positive_class(positive_class, class_names)
    num_workers = num_workers or parallel.default_num_workers()
    read_options = scan.ReadOptions()

    facts, unreadable = scan_files(found, read_options, num_workers)
    if unreadable:
        _report_unreadable(unreadable, output_dir, skip_unreadable)
    pairs = duplicates.find_near_duplicates(facts)
    group_names = groups.make_groups(facts, pairs)
    image_ids = groups.make_image_ids(facts)
    given = [fact.split for fact in facts]
    found_leaks = leaks.find_leaks(group_names, given)
    resolved = leaks.resolve(group_names, given, found_leaks, on_leak)
    kept = [i for i, split in enumerate(resolved) if split != leaks.DROPPED]
    decided = splits.split_images(
        [group_names[i] for i in kept],
        [facts[i].class_name for i in kept],
        [resolved[i] for i in kept],
        [""] * len(kept),
        split_options,
    )
    members = [
        shards.Member(
            image_id=image_ids[i],
            group=group_names[i],
            split=split,
            label=class_names.index(facts[i].class_name),
            facts=facts[i],
        )
        for i, split in zip(kept, decided, strict=True)
    ]
    counts = _count(members, class_names)
    info = records.DatasetInfo(
        class_names=class_names,
        positive_class=positive_class,
        channels=max(member.facts.channels for member in members),
        stored_size=stored_size,
        counts=counts,
        shards=(),
        fingerprint=records.compute_fingerprint(
            (m.image_id, m.facts.sha256, m.label, m.split) for m in members
        ),
        options=flag_values,
        leaks=found_leaks.num_held_out if on_leak == "allow" else 0,
    )
    report = audit.make_audit(
        facts, image_ids, group_names, found_leaks, unreadable
    )
    building = output.start_building(output_dir)
    try:
        _write_reports(building, report, members, unreadable)
        written = _write_shards(
            building, members, found, info, read_options, seed, num_workers
        )
        info = dataclasses.replace(info, shards=tuple(written))
        storage.write_atomically(
            os.path.join(building, records.DATASET_FILE), info.to_json()
        )
        output.publish(building)
    except BaseException:
        output.abandon(building)
        raise
    return info


# Two builds that differ only in these make the same data set.
_LOCAL_OPTIONS = ("input_dir", "output_dir", "num_workers")


def scan_files(
    found: Sequence[sources.Source],
    options: scan.ReadOptions,
    num_workers: int,
) -> tuple[list[scan.ImageFacts], list[scan.ScannedFile]]:
    """Reads every file once: facts of the images, and unreadable files."""
    scan_one = functools.partial(
        scan.scan_file, options=options, key=secrets.token_bytes(32)
    )
    facts, unreadable = [], []
    scanned_files = parallel.map_ordered(
        scan_one, enumerate(found), num_workers
    )
    with tqdm.tqdm(
        total=len(found), desc="reading", unit="file", disable=None
    ) as progress:
        for scanned in scanned_files:
            facts.extend(scanned.images)
            if scanned.error:
                unreadable.append(scanned)
            progress.update()
    return facts, unreadable


def _check_positive_class(
    positive_class: str | None, class_names: tuple[str, ...]
) -> str | None:
    if not positive_class:
        return records.default_positive_class(class_names)
    if positive_class not in class_names or len(class_names) != 2:
        raise ValueError(
            "--positive_class must be one of two classes. Received: "
            f"{positive_class}; the classes are {list(class_names)}."
        )
    return positive_class


def _report_unreadable(
    unreadable: Sequence[scan.ScannedFile],
    output_dir: str,
    skip_unreadable: bool,
) -> None:
    """Raises ValueError with the first unreadable files, unless skipped."""
    if skip_unreadable:
        return
    path = os.path.join(output_dir, UNREADABLE_FILE)
    storage.write_atomically(path, _unreadable_csv(unreadable))
    shown = "; ".join(
        f"{_show_id(file)}: {file.error}" for file in unreadable[:3]
    )
    more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    raise ValueError(
        f"{len(unreadable)} files cannot be read ({shown}{more}). {path} "
        "lists them. Repair or remove them, or leave them out with "
        "--skip_unreadable."
    )


def _show_id(file: scan.ScannedFile) -> str:
    return file.image_id.replace(scan.PATIENT_MARK, "(patient)")


def _unreadable_csv(unreadable: Sequence[scan.ScannedFile]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "reason"])
    writer.writerows([_show_id(file), file.error] for file in unreadable)
    return buffer.getvalue()


def _count(
    members: Sequence[shards.Member], class_names: Sequence[str]
) -> dict[str, dict[str, int]]:
    found = collections.Counter((m.split, m.facts.class_name) for m in members)
    counts = {
        split: {name: found[split, name] for name in class_names}
        for split in records.SPLITS
    }
    for split, per_class in counts.items():
        missing = [name for name, count in per_class.items() if not count]
        if missing and (split != "test" or any(per_class.values())):
            raise ValueError(
                f"The {split} split has no readable images of {missing}; "
                "every split needs images of every class."
            )
    return counts


def _write_reports(
    building: str,
    report: dict,
    members: Sequence[shards.Member],
    unreadable: Sequence[scan.ScannedFile],
) -> None:
    storage.write_atomically(
        os.path.join(building, AUDIT_FILE), json.dumps(report, indent=2) + "\n"
    )
    storage.write_atomically(
        os.path.join(building, IMAGES_FILE), shards.members_csv(members)
    )
    storage.write_atomically(
        os.path.join(building, UNREADABLE_FILE), _unreadable_csv(unreadable)
    )


def _write_shards(
    building: str,
    members: Sequence[shards.Member],
    found: Sequence[sources.Source],
    info: records.DatasetInfo,
    options: scan.ReadOptions,
    seed: int,
    num_workers: int,
) -> list[records.Shard]:
    by_split = collections.defaultdict(lambda: collections.defaultdict(list))
    for member in members:
        by_split[member.split][member.facts.source_index].append(member)
    written = []
    with tqdm.tqdm(
        total=len(members), desc="writing", unit="image", disable=None
    ) as progress:
        for split in records.SPLITS:
            tasks = [
                shards.FileTask(found[index].path, tuple(of_file))
                for index, of_file in sorted(by_split[split].items())
            ]
            if split == "train":
                tasks = shards.order_files(tasks, seed)
            if tasks:
                written += shards.write_split(
                    building,
                    split,
                    tasks,
                    options=options,
                    stored_size=info.stored_size,
                    channels=info.channels,
                    num_workers=num_workers,
                    report_progress=progress.update,
                )
    return written


def summarize(info: records.DatasetInfo, report: dict) -> str:
    """A short table for the terminal."""
    width = max(len(name) for name in (*info.class_names, "class"))
    head = f"{'class':<{width}}" + "".join(f"{s:>12}" for s in info.splits)
    lines = [head]
    for name in info.class_names:
        cells = "".join(f"{info.counts[s][name]:>12,}" for s in info.splits)
        lines.append(f"{name:<{width}}{cells}")
    duplicates_found = report["exact_duplicates"]["surplus"]
    lines.append(
        f"{report['images']:,} images in {report['groups']:,} groups, "
        f"{info.channels} channel{'s' if info.channels > 1 else ''}; "
        f"{duplicates_found:,} surplus copies; "
        f"{len(report['leaks']['groups']):,} groups span given splits; "
        f"{len(report['unreadable']):,} unreadable files."
    )
    return "\n".join(lines)


def _define_flags() -> None:
    flags.DEFINE_string(
        "input_dir",
        None,
        "Folder with a folder of images per class, or with train, validation "
        "and test folders that hold those.",
        required=True,
    )
    flags.DEFINE_string(
        "output_dir", None, "Where the data set goes.", required=True
    )
    flags.DEFINE_integer(
        "stored_size",
        STORED_SIZE,
        "Short side of stored training images, in pixels; smaller images are "
        "not enlarged.",
        lower_bound=8,
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
    flags.DEFINE_string(
        "positive_class",
        None,
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
    flags.DEFINE_integer(
        "num_workers", None, "Processes; default: one per core.", lower_bound=1
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        info = build(
            values.input_dir,
            values.output_dir,
            stored_size=values.stored_size,
            validation_fraction=values.validation_fraction,
            test_fraction=values.test_fraction,
            seed=values.seed,
            positive_class=values.positive_class,
            on_leak=values.on_leak,
            skip_unreadable=values.skip_unreadable,
            num_workers=values.num_workers,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"build_records: {error}")
    audit_path = os.path.join(values.output_dir, AUDIT_FILE)
    print(summarize(info, json.loads(storage.read_bytes(audit_path))))
    print(f"Written to {values.output_dir}; {audit_path} has the details.")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
