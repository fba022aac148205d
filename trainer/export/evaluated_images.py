"""Images that a run evaluated, and what it said of them."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from trainer.data import input_pipeline, records
from trainer.export import signature
from trainer.storage import csv_text, paths

# Images that are read, evenly spread over the splits.
_MAX_IMAGES = 128


@dataclasses.dataclass(frozen=True)
class EvaluatedImages:
    """Some images, in the order of `predictions.csv`.

    Attributes:
        images: encoded, as they were evaluated.
        probabilities: float64 `[images, classes]`, of `predictions.csv`.
        predicted: names of the most probable classes.
        decisions: names of the classes decided on.
        sets: bool `[images, classes]`, classes that are left possible; None if
            the file does not tell.
    """

    images: list[bytes]
    probabilities: np.ndarray
    predicted: list[str]
    decisions: list[str]
    sets: np.ndarray | None = None

    def head(self, count: int) -> "EvaluatedImages":
        """The first of them."""
        return EvaluatedImages(
            self.images[:count],
            self.probabilities[:count],
            self.predicted[:count],
            self.decisions[:count],
            None if self.sets is None else self.sets[:count],
        )


def read_info(version_dir: str) -> records.DatasetInfo:
    """The data set that a version was made of.

    Raises:
        FileNotFoundError: if there is no such version.
    """
    path = os.path.join(version_dir, "assets", signature.DATASET_ASSET)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist: --version_dir must name a version that "
            "trainer.task exported, for example run/export/1."
        )
    text = paths.read_bytes(path).decode("utf-8")
    return records.DatasetInfo.from_json(text, path)


def read_evaluated(
    data_dir: str,
    predictions_path: str,
    info: records.DatasetInfo,
    splits: tuple[str, ...] = ("validation", "test"),
) -> EvaluatedImages:
    """Rows of `predictions.csv`, and the images they are about.

    Args:
        data_dir: the records that were evaluated.
        predictions_path: of the file.
        info: the data set that it must be about.
        splits: whose rows are read.

    Raises:
        FileNotFoundError: if there are no such records or file.
        ValueError: if they are of another data set.
    """
    data = input_pipeline.read_dataset_info(data_dir)
    if data.fingerprint != info.fingerprint:
        raise ValueError(
            f"{data_dir} is another data set than the version was made of "
            f"(fingerprints {data.fingerprint[:12]} and "
            f"{info.fingerprint[:12]}): give the run's --data_dir."
        )
    if not paths.exists(predictions_path):
        raise FileNotFoundError(
            f"{predictions_path} does not exist: give the predictions.csv in "
            "the evaluation folder of the run."
        )
    text = paths.read_bytes(predictions_path).decode("utf-8")
    rows = [row for row in csv_text.read(text) if row["split"] in splits]
    if not rows:
        raise ValueError(f"{predictions_path} has no rows: run trainer.task.")
    count = min(len(rows), _MAX_IMAGES)
    rows = [rows[i * len(rows) // count] for i in range(count)]
    wanted = {(row["split"], row["id"]) for row in rows}
    images = {}
    for split in {split for split, _ in wanted}:
        dataset = tf.data.TFRecordDataset(
            input_pipeline.split_files(data_dir, data, split)
        ).map(records.parse_example)
        for example in dataset.as_numpy_iterator():
            key = split, example["id"].decode("utf-8")
            if key in wanted:
                images[key] = example["image"]
    absent = sorted(wanted - set(images))
    if absent:
        raise ValueError(
            f"{predictions_path} has a row of {absent[0][1]}, which "
            f"{data_dir} does not hold: give the files of one run."
        )
    columns = [f"probability_{name}" for name in info.class_names]
    in_set = [f"in_set_{name}" for name in info.class_names]
    return EvaluatedImages(
        [images[row["split"], row["id"]] for row in rows],
        np.array([[float(row[c]) for c in columns] for row in rows]),
        [row["predicted"] for row in rows],
        [row["decision"] for row in rows],
        np.array([[row[c] == "1" for c in in_set] for row in rows])
        if set(in_set) <= set(rows[0])
        else None,
    )
