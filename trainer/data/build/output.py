"""A data directory changes as a whole: it is built aside, then moved in.

While a build runs, its files lie in a hidden folder inside the output
directory, so that the last step is a rename on one file system, and the
directory itself may be a mount point. `dataset.json` leaves first and comes
last: whatever interrupts, it never stands beside shards of another build.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from trainer.data import records
from trainer.data.build import pseudonyms, scan, shards, sources, splits
from trainer.storage import csv_text, locks, paths

AUDIT_FILE = "audit.json"
IMAGES_FILE = "images.csv"
UNREADABLE_FILE = "unreadable.csv"
COLUMNS_FILE = "columns.csv"

# What `read_previous_splits` needs.
EARLIER_FILES = (records.DATASET_FILE, IMAGES_FILE)

BUILDING = ".building"
# Another value of any of these asks for other splits.
_SPLIT_OPTIONS = [f.name for f in dataclasses.fields(splits.SplitOptions)]
_SHARD_PATTERN = re.compile(r"(train|validation|test)-\d{5}-of-\d{5}\.tfrecord")


def check_output_dir(output_dir: str, input_dir: str) -> None:
    """Raises ValueError unless a data set can be built there."""
    if not output_dir:
        raise ValueError("--output_dir must name a folder for the records.")
    if paths.is_remote(output_dir):
        return
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise ValueError(f"--output_dir={output_dir} is a file, not a folder.")
    if not input_dir:
        return
    inside = os.path.join(os.path.realpath(output_dir), "")
    if inside.startswith(os.path.join(os.path.realpath(input_dir), "")):
        raise ValueError(
            "The records must not be mixed with the images. Received: "
            f"--output_dir={output_dir}, which lies in {input_dir}."
        )


@contextlib.contextmanager
def building(output_dir: str) -> Iterator[str]:
    """Gives a folder to build in, which goes if the build fails.

    Raises:
        OSError: with a sentence, if the disk is full or another build runs.
    """
    folder = os.path.join(output_dir, BUILDING)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--output_dir={output_dir} cannot be made ({error.strerror}); "
            "choose another."
        ) from error
    with locks.held(folder, f"--output_dir={output_dir}"):
        for name in _list_building(folder):  # Of a build that was killed.
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)
        try:
            yield folder
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not os.listdir(output_dir):
                os.rmdir(output_dir)
            if isinstance(error, OSError) and error.errno in paths.DISK_FULL:
                reason = os.strerror(error.errno)
                raise OSError(
                    f"{output_dir} cannot be written ({reason}); free "
                    "some space, or choose another --output_dir."
                ) from error
            raise


def _list_building(folder: str) -> list[str]:
    return sorted({*os.listdir(folder)} - {locks.LOCK_FILE})


def publish(folder: str) -> None:
    """Moves a complete build into the output directory."""
    output_dir = os.path.dirname(folder)
    dataset_file = os.path.join(output_dir, records.DATASET_FILE)
    if os.path.exists(dataset_file):
        os.remove(dataset_file)
    for name in os.listdir(output_dir):
        if _SHARD_PATTERN.fullmatch(name):
            os.remove(os.path.join(output_dir, name))
    names = _list_building(folder)
    names.remove(records.DATASET_FILE)
    for name in [*names, records.DATASET_FILE]:
        os.replace(os.path.join(folder, name), os.path.join(output_dir, name))
    shutil.rmtree(folder)  # With the lock, which is still held.


def fetch_earlier(output_dir: str) -> str:
    """A new local folder with `EARLIER_FILES` of one in Cloud Storage.

    What an interrupted build has left there is deleted.
    """
    local_dir = tempfile.mkdtemp()
    paths.remove_folder(paths.join(output_dir, BUILDING))
    for name in EARLIER_FILES:
        path = paths.join(output_dir, name)
        if paths.exists(path):
            data = paths.read_bytes(path)
            paths.write_atomically(os.path.join(local_dir, name), data)
    return local_dir


def publish_remotely(
    local_dir: str, output_dir: str, shard_names: Sequence[str]
) -> None:
    """Moves the new shards of a bucket in, and copies what describes them.

    The shards are in `BUILDING` below the output directory, the rest in a local
    one.
    """
    from trainer.storage import buckets

    folder = buckets.Folder(output_dir)
    folder.delete(records.DATASET_FILE)
    for name in filter(_SHARD_PATTERN.fullmatch, folder.list()):
        folder.delete(name)
    for name in shard_names:
        folder.rename(f"{BUILDING}/{name}", name)
    names = sorted(os.listdir(local_dir))
    names.remove(records.DATASET_FILE)
    for name in [*names, records.DATASET_FILE]:
        folder.upload(os.path.join(local_dir, name), name)


def write_reports(
    folder: str,
    report: dict,
    members: Sequence[shards.Member],
    unreadable: Sequence[scan.ScannedFile],
    columns: Sequence[str],
    files: Sequence[sources.Source],
) -> None:
    """Writes `audit.json` and the tables of images, columns and bad files.

    Args:
        folder: where to.
        report: from `audit.make_audit`.
        members: the images that are kept.
        unreadable: files that are no image.
        columns: names of the manifest's columns that the user kept.
        files: the sources, with the values of these.
    """
    members = sorted(members, key=lambda member: member.facts.image_id)
    for name, text in (
        (
            COLUMNS_FILE,
            csv_text.write(
                [["id", *columns]]
                + [
                    (m.facts.image_id, *files[m.facts.source_index].columns)
                    for m in members
                    if columns
                ],
            ),
        ),
        (AUDIT_FILE, json.dumps(report, indent=2) + "\n"),
        (IMAGES_FILE, _images_csv(members)),
        (UNREADABLE_FILE, _unreadable_csv(unreadable)),
    ):
        paths.write_atomically(os.path.join(folder, name), text)


def _images_csv(members: Sequence[shards.Member]) -> str:
    """One line per image, as evaluation reads it to find shortcuts."""
    names = [
        *("sha256", "width", "height", "channels", "source_format"),
        *("bit_depth", "quality", "num_bytes"),
        *("mean_brightness", "border_brightness"),
    ]
    heads = [name.removeprefix("source_") for name in names]
    return csv_text.write(
        [["id", "split", "class", "group", *heads]]
        + [
            (m.facts.image_id, m.split, m.facts.class_name, m.facts.group)
            + tuple(getattr(m.facts, name) for name in names)
            for m in members
        ],
    )


def _unreadable_csv(unreadable: Sequence[scan.ScannedFile]) -> str:
    rows = [(file.image_id, file.error) for file in unreadable]
    return csv_text.write([("id", "reason"), *rows])


def refuse_unreadable(
    output_dir: str, unreadable: Sequence[scan.ScannedFile], has_images: bool
) -> None:
    """Lists unreadable files in `unreadable.csv` and raises ValueError."""
    path = os.path.join(output_dir, UNREADABLE_FILE)
    paths.write_atomically(path, _unreadable_csv(unreadable))
    shown = "; ".join(
        f"{file.image_id}: {file.error}" for file in unreadable[:3]
    )
    more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    if any(f"/{pseudonyms.DIGEST}" in file.image_id for file in unreadable):
        more += (
            f"; {pseudonyms.DIGEST}… stands for a name that may be a "
            "patient's: sha256sum finds the file"
        )
    listed = f"({shown}{more}). {path} lists all of them"
    if not has_images:
        raise ValueError(
            f"None of the {len(unreadable)} files can be read {listed}."
        )
    number = "One file" if len(unreadable) == 1 else f"{len(unreadable)} files"
    raise ValueError(
        f"{number} cannot be read {listed}: "
        "repair or remove them, or leave them out with --skip_unreadable."
    )


def read_columns(
    data_dir: str, columns: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
    """Values of the manifest's columns that a build kept, or of some of them.

    Returns:
        Column -> image id -> value.

    Raises:
        ValueError: if a column was not kept, or the table is damaged.
    """
    path = paths.join(data_dir, COLUMNS_FILE)
    rows = []
    if paths.exists(path):
        text = paths.read_bytes(path).decode("utf-8")
        rows = csv_text.read(text)
    kept = [name for name in (rows[0] if rows else ()) if name != "id"]
    absent = [name for name in columns if name not in kept]
    if absent:
        raise ValueError(
            f"The records in {data_dir} have no column {', '.join(absent)} "
            f"(there is: {', '.join(kept) or 'none'}): build them from a "
            f"--manifest with --columns={','.join(columns)}."
        )
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} is damaged: build the records again.")
    return {
        name: {row["id"]: row[name] for row in rows} for name in columns or kept
    }


def read_previous_splits(
    data_dir: str, options: dict | None = None
) -> dict[str, str]:
    """The split of each image of an earlier build, by pixel hash and by id.

    If options are given, only a build with the same ones of the split counts:
    another seed asks for other splits.
    """
    dataset_file = os.path.join(data_dir, records.DATASET_FILE)
    images_file = os.path.join(data_dir, IMAGES_FILE)
    if not (os.path.exists(dataset_file) and os.path.exists(images_file)):
        return {}
    text = paths.read_bytes(dataset_file).decode("utf-8")
    info = records.DatasetInfo.from_json(text, dataset_file)
    if options is not None and any(
        info.options.get(name) != options[name] for name in _SPLIT_OPTIONS
    ):
        return {}
    split_of = {}
    rows = csv_text.read(paths.read_bytes(images_file).decode("utf-8"))
    # Where copies were let into several splits, the last one written counts.
    for split in records.SPLITS:
        for row in rows:
            if row["split"] == split:
                split_of[row["id"]] = split_of[row["sha256"]] = split
    return split_of
