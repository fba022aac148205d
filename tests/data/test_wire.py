"""What machines pass on to each other comes back, and is no code."""

import pickle

import pytest

from tests.data.builders import make_facts
from trainer.data import records
from trainer.data.build import scan, shards, sources, training_images, wire

FACTS = make_facts(3, "tumor", kin=("uid:1", "folder:x"), image_id="a/\0.dcm")
SOURCE = sources.Source("/x/ü.png", "a/ü", "a", kin=("b",), columns=("c", "1"))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (list[tuple[int, sources.Source]], [(0, SOURCE), (17, SOURCE)]),
        (
            scan.ScannedFile,
            scan.ScannedFile(
                images=(FACTS,),
                thumbnails=(bytes(range(256)), b""),
                encoded=(training_images.Encoded(b"\xff", b""),),
                error="?",
                is_no_image=True,
            ),
        ),
        (
            shards.ShardTask,
            shards.ShardTask(
                "train-00000",
                "train",
                (shards.FileTask("p", (shards.Member("train", 1, 5, FACTS),)),),
            ),
        ),
        (records.Shard, records.Shard("x", "test", 3, 99, "ab")),
        (float | None, None),
        (float | None, 1),
    ],
)
def test_value_comes_back_as_it_was(kind, value):
    assert wire.from_json(kind, wire.to_json(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        pickle.dumps(records.Shard("x", "test", 3, 99, "ab")),
        b"[]",
        b'{"name": "x"}',
        b'{"name": 1, "split": "", "num_records": 1, "num_bytes": 1}',
        wire.to_json(records.Shard("x", "test", "3", 99, "ab")),
        wire.to_json(SOURCE),
    ],
)
def test_text_of_something_else_is_refused(text):
    with pytest.raises(ValueError):
        wire.from_json(records.Shard, text)
