import csv
import json

import numpy as np
import pytest

from tests.samples import write_records
from trainer.data import input_pipeline, records
from trainer.export import evaluated_images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("records")
    write_records(directory, {"train": 4, "validation": 5, "test": 7}, 3)
    return directory


@pytest.fixture(scope="module")
def info(data):
    return input_pipeline.read_dataset_info(str(data))


def make_rows(data, info):
    """A row for each image, in the order of the index, the last split first."""
    rows = []
    for split in ("test", "validation"):
        index = input_pipeline.read_index(str(data), info)[split]
        for number, name in enumerate(index[0]):
            score = round(0.05 + 0.07 * len(rows), 2)
            rows.append(
                {
                    "split": split,
                    "id": str(name),
                    "predicted": info.class_names[number % 2],
                    "decision": info.class_names[number % 3 == 0],
                    "probability_no_tumor": 1 - score,
                    "probability_tumor": score,
                    "in_set_no_tumor": int(number % 2),
                    "in_set_tumor": 1,
                }
            )
    return rows


def write_rows(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture
def rows(data, info):
    return make_rows(data, info)


@pytest.fixture(scope="module")
def encoded(data, info):
    """Split and id -> file."""
    images = {}
    for split in info.splits:
        files = input_pipeline.split_files(str(data), info, split)
        index = input_pipeline.read_index(str(data), info)[split]
        for name, image in zip(
            index[0], input_pipeline.iterate_encoded(files), strict=True
        ):
            images[split, str(name)] = image
    return images


@pytest.mark.parametrize("splits", [("test",), ("validation", "test")])
def test_rows_and_images_come_in_the_order_of_the_file(
    data, info, rows, encoded, tmp_path, splits
):
    rows[3], rows[8] = rows[8], rows[3]
    path = write_rows(tmp_path / "predictions.csv", rows)
    read = evaluated_images.read_evaluated(str(data), path, info, splits)
    asked = [row for row in rows if row["split"] in splits]
    assert read.images == [encoded[row["split"], row["id"]] for row in asked]
    np.testing.assert_array_equal(
        read.probabilities,
        [[r["probability_no_tumor"], r["probability_tumor"]] for r in asked],
    )
    assert read.predicted == [row["predicted"] for row in asked]
    assert read.decisions == [row["decision"] for row in asked]
    np.testing.assert_array_equal(
        read.sets, [[r["in_set_no_tumor"], 1] for r in asked]
    )
    head = read.head(4)
    assert head.images == read.images[:4] and len(head.sets) == 4
    assert len(head.probabilities) == len(head.predicted) == 4
    assert head.decisions == read.decisions[:4]


@pytest.mark.parametrize("column", ["in_set_tumor", "in_set_no_tumor"])
def test_file_without_sets_has_none(data, info, rows, tmp_path, column):
    for row in rows:
        del row[column]
    path = write_rows(tmp_path / "predictions.csv", rows)
    read = evaluated_images.read_evaluated(str(data), path, info)
    assert read.sets is None and read.head(2).sets is None


def test_of_many_rows_some_of_all_parts_are_taken(
    data, info, rows, encoded, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluated_images, "_MAX_IMAGES", 5)
    path = write_rows(tmp_path / "predictions.csv", rows)
    read = evaluated_images.read_evaluated(str(data), path, info)
    asked = [rows[i] for i in (0, 2, 4, 7, 9)]
    assert read.images == [encoded[row["split"], row["id"]] for row in asked]
    monkeypatch.setattr(evaluated_images, "_MAX_IMAGES", 12)
    read = evaluated_images.read_evaluated(str(data), path, info)
    assert len(read.images) == 12


def test_what_does_not_belong_together_is_refused(data, info, rows, tmp_path):
    path = tmp_path / "predictions.csv"

    def read(info=info):
        return evaluated_images.read_evaluated(str(data), str(path), info)

    with pytest.raises(FileNotFoundError, match=r"predictions\.csv does not"):
        read()
    write_rows(path, [row | {"split": "train"} for row in rows])
    with pytest.raises(ValueError, match="has no rows: run"):
        read()
    rows[-1]["id"] = "tumor/elsewhere.png"
    write_rows(path, rows)
    with pytest.raises(ValueError, match=r"elsewhere\.png, which .* not hold"):
        read()
    text = (data / records.DATASET_FILE).read_text()
    text = json.dumps(json.loads(text) | {"fingerprint": "f" * 64})
    other = records.DatasetInfo.from_json(text, "other")
    with pytest.raises(ValueError, match=r"another data set .* ffffffffffff"):
        read(other)


def test_data_set_of_a_version_is_in_its_assets(data, info, tmp_path):
    with pytest.raises(FileNotFoundError, match="--version_dir must name"):
        evaluated_images.read_info(str(tmp_path))
    (tmp_path / "assets").mkdir()
    text = (data / records.DATASET_FILE).read_bytes()
    (tmp_path / "assets/dataset.json").write_bytes(text)
    assert evaluated_images.read_info(str(tmp_path)) == info
