import itertools
import os

import pytest
import tensorflow as tf

from trainer.data import record_order

SIZES = [7, 1, 9, 0, 6, 8]
NUM_IMAGES = sum(SIZES)  # 31: no multiple of anything
BATCH = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Shards of records `0`, `1`, ... `30`."""
    directory = tmp_path_factory.mktemp("shards")
    names, number = [], itertools.count()
    for i, size in enumerate(SIZES):
        names.append(str(directory / f"{i}.tfrecord"))
        with tf.io.TFRecordWriter(names[-1]) as writer:
            for _ in range(size):
                writer.write(str(next(number)).encode())
    return names


def read(files, count, **overrides):
    """The first `(position, record)` pairs of a worker."""
    arguments = {"global_batch_size": BATCH, "seed": 0, **overrides}
    dataset = record_order.make_training_records(files, SIZES, **arguments)
    return [
        (int(position), int(record))
        for position, record in dataset.take(count).as_numpy_iterator()
    ]


@pytest.mark.parametrize(
    ("num_shards", "batch", "expected"),
    # By hand: the largest divisor of the batch that is no more than the shards.
    [(1, 32, 1), (6, 8, 4), (6, 9, 3), (100, 32, 32), (100, 48, 24), (9, 7, 7)],
)
def test_strands_divide_the_batch_and_have_a_shard_each(
    num_shards, batch, expected
):
    assert record_order.choose_num_strands(num_shards, batch) == expected


def test_every_epoch_has_every_record_once_in_another_order(files):
    pairs = read(files, 4 * NUM_IMAGES)
    assert [position for position, _ in pairs] == list(range(4 * NUM_IMAGES))
    order = [record for _, record in pairs]
    starts = range(0, 4 * NUM_IMAGES, NUM_IMAGES)
    epochs = [order[start : start + NUM_IMAGES] for start in starts]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_IMAGES))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != sorted(epochs[0])


# Four strands: eight workers are too many for one each, and share them.
@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
@pytest.mark.parametrize("start_step", [0, 3, 7])
def test_workers_share_every_batch_of_one_worker(
    files, num_workers, start_step
):
    num_steps = 9 - start_step
    whole = dict(read(files, 9 * BATCH))
    share = BATCH // num_workers
    part = {"num_workers": num_workers, "start_step": start_step}
    workers = [
        read(files, num_steps * share, worker_index=worker, **part)
        for worker in range(num_workers)
    ]
    for pairs in workers:
        for step in range(num_steps):
            batch = pairs[step * share : (step + 1) * share]
            assert {p // BATCH for p, _ in batch} == {start_step + step}
    union = dict(pair for pairs in workers for pair in pairs)
    first = start_step * BATCH
    assert union == {p: r for p, r in whole.items() if p >= first}


def test_worker_opens_its_own_shards_only(files, tmp_path):
    """Of 31 records in four strands the first worker of two has 15 or 16."""
    own = []
    for file in files[:3]:
        own.append(str(tmp_path / os.path.basename(file)))
        os.symlink(file, own[-1])
    absent = [str(tmp_path / "absent")] * 3
    pairs = read(own + absent, 4 * BATCH, num_workers=2, worker_index=0)
    assert max(record for _, record in pairs) <= 16
    with pytest.raises(tf.errors.NotFoundError):
        read(own + absent, 4 * BATCH, num_workers=2, worker_index=1)


# With 64 images a step there is nothing left for the last of eight workers.
@pytest.mark.parametrize(
    ("num_workers", "batch"), [(1, 8), (2, 8), (4, 8), (8, 8), (8, 64)]
)
def test_evaluation_reads_every_record_once_and_pads(files, num_workers, batch):
    pairs = []
    for worker in range(num_workers):
        dataset = record_order.make_records_once(
            files,
            SIZES,
            global_batch_size=batch,
            num_workers=num_workers,
            worker_index=worker,
        )
        part = list(dataset.as_numpy_iterator())
        pairs += part
    padded = max(32, batch)
    assert len(part) == padded // num_workers
    assert [int(position) for position, _ in pairs] == list(range(padded))
    records = [b"%d" % i for i in range(31)] + [b""] * (padded - 31)
    assert [record for _, record in pairs] == records
