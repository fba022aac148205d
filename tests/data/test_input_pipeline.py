import dataclasses
import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.samples import IMAGE_SIZE, encode, make_pixels, write_records
from trainer.data import augmentation, input_pipeline, preprocessing, records

NUM_TRAIN = 22
BATCH = 8


def make_dataset(make, directory, split, **arguments):
    info = input_pipeline.read_dataset_info(str(directory))
    return make(
        input_pipeline.split_files(str(directory), info, split),
        shard_sizes=info.shard_sizes(split),
        **{"image_size": IMAGE_SIZE, "channels": 1, **arguments},
    )


def train_dataset(directory, **overrides):
    arguments = {
        "augmentation": augmentation.Augmentation(),
        "global_batch_size": BATCH,
        "per_replica_batch_size": BATCH,
        "seed": 3,
        **overrides,
    }
    make = input_pipeline.make_train_dataset
    return make_dataset(make, directory, "train", **arguments)


def evaluation_dataset(directory, **overrides):
    sizes = {"global_batch_size": 4, "per_replica_batch_size": 4}
    make = input_pipeline.make_evaluation_dataset
    return make_dataset(make, directory, "test", **sizes, **overrides)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def stream(batches):
    return np.concatenate([batch["inputs"] for batch in batches])


def test_every_epoch_shows_every_image_with_its_label_once_in_another_order(
    tiny_records,
):
    # Unchanged pixels tell which image is which.
    still = augmentation.Augmentation(0, 0, 0, False, False, 0, 0)
    dataset = train_dataset(tiny_records, augmentation=still, image_size=40)
    batches = take(dataset, 11)
    for batch in batches:
        has_square = batch["inputs"].max(axis=(1, 2, 3)) > 200
        np.testing.assert_array_equal(batch["labels"], has_square)
    keys = [image.tobytes() for image in stream(batches)]
    epochs = [keys[i * NUM_TRAIN : (i + 1) * NUM_TRAIN] for i in range(4)]
    for epoch in epochs:
        assert len(set(epoch)) == NUM_TRAIN
        assert set(epoch) == set(epochs[0])
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_start_step_continues_the_stream(tiny_records):
    whole = take(train_dataset(tiny_records), 9)
    for start in (1, 5):
        rest = take(train_dataset(tiny_records, start_step=start), 9 - start)
        np.testing.assert_array_equal(stream(rest), stream(whole[start:]))


def test_seed_changes_order_and_views(tiny_records):
    first = stream(take(train_dataset(tiny_records), 2))
    again = stream(take(train_dataset(tiny_records), 2))
    other = stream(take(train_dataset(tiny_records, seed=4), 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_and_replicas_share_the_same_global_batches(
    tiny_records, num_workers
):
    whole = take(train_dataset(tiny_records), 3)
    share = {"per_replica_batch_size": 2, "num_workers": num_workers}
    workers = [
        take(train_dataset(tiny_records, worker_index=i, **share), 12)
        for i in range(num_workers)
    ]
    per_worker = 4 // num_workers
    for step, batch in enumerate(whole):
        own = slice(step * per_worker, (step + 1) * per_worker)
        parts = [part for worker in workers for part in worker[own]]
        places = np.concatenate([part["places"] for part in parts])
        assert sorted(places) == list(range(BATCH))
        np.testing.assert_array_equal(stream(parts), batch["inputs"][places])


def test_evaluation_counts_every_image_once_and_pads_with_weight_zero(
    tiny_records,
):
    batches = take(evaluation_dataset(tiny_records), 99)
    assert [len(batch["inputs"]) for batch in batches] == [4, 4]
    indices = np.concatenate([batch["indices"] for batch in batches])
    weights = np.concatenate([batch["weights"] for batch in batches])
    np.testing.assert_array_equal(indices, np.arange(8))
    np.testing.assert_array_equal(weights, [1] * 7 + [0])


def test_evaluation_pixels_are_those_of_serving(tiny_records):
    images = stream(take(evaluation_dataset(tiny_records), 2))
    info = input_pipeline.read_dataset_info(str(tiny_records))
    index = input_pipeline.read_index(str(tiny_records), info)
    sizes = {split: len(rows.ids) for split, rows in index.items()}
    assert sizes == {"train": 22, "validation": 9, "test": 7}
    ids, groups, labels = index["test"]
    assert len(set(ids)) == len(set(groups)) == 7
    for image, image_id, label in zip(images, ids, labels, strict=False):
        index = 2000 + int(image_id.split("_")[-1].split(".")[0])
        encoded = encode(make_pixels(index, label))
        expected = preprocessing.prepare_image(encoded, IMAGE_SIZE, 1)
        np.testing.assert_array_equal(image, expected)


def test_views_differ_and_repeat(tiny_records):
    drawn = {"augmentation": augmentation.Augmentation(), "seed": 1}
    first, again, other = (
        stream(take(evaluation_dataset(tiny_records, view=i, **drawn), 1))
        for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_missing_dataset_json_is_named(tmp_path):
    named = r"dataset\.json.*build_records"
    with pytest.raises(FileNotFoundError, match=named):
        input_pipeline.read_dataset_info(str(tmp_path))


def test_other_schema_version_is_refused_with_both_numbers(
    tiny_records, tmp_path
):
    fields = json.loads((tiny_records / records.DATASET_FILE).read_text())
    fields["schema_version"] = 99
    (tmp_path / records.DATASET_FILE).write_text(json.dumps(fields))
    versions = f"version 99.*version {records.SCHEMA_VERSION}"
    with pytest.raises(ValueError, match=versions):
        input_pipeline.read_dataset_info(str(tmp_path))


@pytest.fixture
def small_records(tmp_path):
    """Path and description of records that a test may damage."""
    write_records(tmp_path, {"train": 8, "validation": 4, "test": 4})
    return tmp_path, input_pipeline.read_dataset_info(str(tmp_path))


def test_missing_and_shortened_shards_are_named(small_records):
    directory, info = small_records
    shard = directory / info.shard_names("train")[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{shard.name} has .* bytes"):
        input_pipeline.read_dataset_info(str(directory))
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} is missing"):
        input_pipeline.read_dataset_info(str(directory))


def test_flipped_byte_in_a_shard_is_found(small_records):
    directory, info = small_records
    shard = directory / info.shard_names("train")[0]
    data = bytearray(shard.read_bytes())
    data[300] ^= 1
    shard.write_bytes(data)
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        input_pipeline.read_index(str(directory), info)


def test_whole_shard_of_other_images_is_found(small_records):
    """Every checksum is right and the size is too: the images are others."""
    directory, info = small_records
    shard = str(directory / info.shard_names("train")[0])
    examples = list(tf.data.TFRecordDataset([shard]).as_numpy_iterator())
    with tf.io.TFRecordWriter(shard) as writer:
        for example in examples:
            writer.write(example.replace(b"train_0.png", b"train_9.png"))
    input_pipeline.read_dataset_info(str(directory))
    with pytest.raises(ValueError, match="hold other images, labels or"):
        input_pipeline.read_index(str(directory), info)


def test_missing_records_are_counted(small_records):
    directory, info = small_records
    (directory / info.shard_names("validation")[1]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"hold 2 records, .* lists 4"):
        input_pipeline.read_index(str(directory), info)


MEANINGS = {
    "class_names": (("tumor", "no_tumor"), "another class than no_tumor"),
    "positive_class": ("no_tumor", "another positive class"),
    "counts": (
        {
            split: {"no_tumor": count // 2 - 1, "tumor": count // 2 + 1}
            for split, count in (("train", 8), ("validation", 4), ("test", 4))
        },
        "other counts",
    ),
    "schema_version": (1, "hold other images"),
}


@pytest.mark.parametrize("field", MEANINGS)
def test_labels_that_mean_something_else_are_found(small_records, field):
    directory, info = small_records
    assert (info.class_names, info.positive_index) == (("no_tumor", "tumor"), 1)
    value, message = MEANINGS[field]
    other = dataclasses.replace(info, **{field: value})
    with pytest.raises(ValueError, match=message):
        input_pipeline.read_index(str(directory), other)


def test_version_1_is_read_and_its_names_and_counts_are_compared(
    small_records,
):
    directory, info = small_records
    rows = [
        [
            f"{info.class_names[i % 2]}/{split}_{i}.png",
            str(i + 1000 * number),
            i % 2,
            split,
        ]
        for number, split in enumerate(records.SPLITS)
        for i in range(info.num_images(split))
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in sorted(rows))
    old = records.DatasetInfo.from_json(
        dataclasses.replace(
            info,
            schema_version=1,
            fingerprint=hashlib.sha256(lines.encode()).hexdigest(),
        ).to_json()
    )
    assert input_pipeline.read_index(str(directory), old)["test"].ids
    for field in ("class_names", "counts"):
        value, message = MEANINGS[field]
        other = dataclasses.replace(old, **{field: value})
        with pytest.raises(ValueError, match=message):
            input_pipeline.read_index(str(directory), other)
