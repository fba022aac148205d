"""A data directory changes as a whole: it is built aside, then moved in.

While a build runs, its files lie in a hidden folder inside the output
directory, so that the last step is a rename on one file system, and the
directory itself may be a mount point. `dataset.json` leaves first and comes
last: whatever interrupts, it never stands beside shards of another build.
"""

import os
import re
import shutil

from trainer import storage
from trainer.data import records

_BUILDING = ".building"
_SHARD_PATTERN = re.compile(r"(train|validation|test)-\d{5}-of-\d{5}\.tfrecord")


def check_output_dir(output_dir: str, input_dir: str) -> None:
    """Raises ValueError unless a data set can be built there."""
    if not output_dir:
        raise ValueError("--output_dir must name a folder for the records.")
    if storage.is_remote(output_dir):
        raise ValueError(
            "Records are built on a local disk and then copied. Received: "
            f"--output_dir={output_dir}; build into a local folder and copy "
            "it with `gcloud storage cp -r`."
        )
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise ValueError(f"--output_dir={output_dir} is a file, not a folder.")
    inside = os.path.join(os.path.realpath(output_dir), "")
    if inside.startswith(os.path.join(os.path.realpath(input_dir), "")):
        raise ValueError(
            "The records must not be mixed with the images. Received: "
            f"--output_dir={output_dir}, which lies in {input_dir}."
        )


def start_building(output_dir: str) -> str:
    """Makes an empty folder to build in, and returns its path."""
    building = os.path.join(output_dir, _BUILDING)
    shutil.rmtree(building, ignore_errors=True)
    os.makedirs(building)
    return building


def abandon(building: str) -> None:
    """Removes what a failed build has written."""
    shutil.rmtree(building, ignore_errors=True)
    output_dir = os.path.dirname(building)
    if os.path.isdir(output_dir) and not os.listdir(output_dir):
        os.rmdir(output_dir)


def publish(building: str) -> None:
    """Moves a complete build into the output directory."""
    output_dir = os.path.dirname(building)
    dataset_file = os.path.join(output_dir, records.DATASET_FILE)
    if os.path.exists(dataset_file):
        os.remove(dataset_file)
    for name in os.listdir(output_dir):
        if _SHARD_PATTERN.fullmatch(name):
            os.remove(os.path.join(output_dir, name))
    names = sorted(os.listdir(building))
    names.remove(records.DATASET_FILE)
    for name in [*names, records.DATASET_FILE]:
        os.replace(os.path.join(building, name), os.path.join(output_dir, name))
    os.rmdir(building)
