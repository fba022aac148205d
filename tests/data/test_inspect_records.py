"""The contact sheet shows every class, and damage is named."""

import json

import numpy as np
import PIL.Image
import pytest

from tests.data.builders import build, write_heads
from trainer.data import input_pipeline, inspect_records, preprocessing


@pytest.fixture
def data_dir(tmp_path):
    write_heads(tmp_path / "s", range(24), "ab")
    build(tmp_path / "s", tmp_path / "r")
    return tmp_path / "r"


def test_sheet_has_two_rows_per_class_and_counts_add_up(data_dir, tmp_path):
    sheet = tmp_path / "out" / "sheet.png"
    text = inspect_records.inspect(str(data_dir), str(sheet), 3, seed=0)
    size = inspect_records.TILE_SIZE
    picture = PIL.Image.open(sheet)
    assert picture.size == (3 * size, 2 * (2 * size + 16))
    info = input_pipeline.read_dataset_info(str(data_dir))
    samples = inspect_records.read_samples(str(data_dir), info, 3)
    columns = np.split(np.array(picture.convert("L")), 3, axis=1)
    for row, images in enumerate(samples.values()):
        for encoded, column in zip(images, columns, strict=True):
            block = np.split(column, 2)[row][16:]
            plain = preprocessing.prepare_image(encoded, size, 1)[..., 0]
            np.testing.assert_allclose(block[:size], plain, atol=0.5)
            assert block[size:].max() > 100
            assert (block[size:] != block[:size]).mean() > 0.1
    assert text.splitlines()[1].startswith("a")
    assert "50%" in text


def test_damaged_shard_is_named(data_dir, tmp_path):
    shard = next(data_dir.glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged"):
        inspect_records.inspect(str(data_dir), str(tmp_path / "x.png"), 3, 0)


def test_reversed_class_names_are_found(data_dir, tmp_path):
    path = data_dir / "dataset.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"class_names": ["b", "a"]}))
    with pytest.raises(ValueError, match=r"another class than [ab] for label"):
        inspect_records.inspect(str(data_dir), str(tmp_path / "x.png"), 3, 0)


def test_folder_without_data_set_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset\.json"):
        inspect_records.inspect(str(tmp_path), str(tmp_path / "x.png"), 3, 0)
