import itertools
import os
import tempfile

import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer.data import record_order

SIZES = [7, 1, 9, 0, 6, 8]
NUM_IMAGES = sum(SIZES)  # 31: no multiple of anything
BATCH = 8


def write_shards(directory, sizes):
    """Shards of records `0`, `1`, ...; returns their names."""
    names, number = [], itertools.count()
    for i, size in enumerate(sizes):
        names.append(os.path.join(directory, f"{i}.tfrecord"))
        with tf.io.TFRecordWriter(names[-1]) as writer:
            for _ in range(size):
                writer.write(str(next(number)).encode())
    return names


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Shards of 31 records."""
    return write_shards(tmp_path_factory.mktemp("shards"), SIZES)


def read(files, count, sizes=SIZES, **overrides):
    """The first `(position, record)` pairs of a worker."""
    arguments = {"global_batch_size": BATCH, "seed": 0, **overrides}
    dataset = record_order.make_training_records(files, sizes, **arguments)
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


@st.composite
def workers_of_a_batch(draw):
    """A global batch, and a number of workers that divides it."""
    num_workers = draw(st.integers(1, 3))
    return num_workers * draw(st.integers(1, 3)), num_workers


@settings(max_examples=4)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=7).filter(
        lambda sizes: sum(sizes) > 9
    ),
    workers_of_a_batch(),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
# Four strands: eight workers are too many for one each, and share them.
@example(SIZES, (8, 8), 3, 0)
@example(SIZES, (8, 2), 7, 0)
def test_any_number_of_workers_shares_epochs_that_are_permutations(
    sizes, shared, start_step, seed
):
    (batch, num_workers), num_images = shared, sum(sizes)
    num_steps = 2 + 3 * num_images // batch  # three epochs and more
    first, count = start_step * batch, num_steps * batch
    options = {"sizes": sizes, "global_batch_size": batch, "seed": seed}
    with tempfile.TemporaryDirectory() as directory:
        files = write_shards(directory, sizes)
        whole = read(files, first + count, **options)
        workers = [
            read(
                files,
                count // num_workers,
                worker_index=worker,
                num_workers=num_workers,
                start_step=start_step,
                **options,
            )
            for worker in range(num_workers)
        ]
    assert [position for position, _ in whole] == list(range(first + count))
    order = [record for _, record in whole]
    ends = range(num_images, len(order), num_images)
    epochs = [order[end - num_images : end] for end in ends]
    assert len(epochs) > 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(num_images))
    assert len(set(map(tuple, epochs))) == len(epochs)
    share = batch // num_workers
    for pairs in workers:
        steps = [position // batch for position, _ in pairs]
        assert steps == [start_step + i // share for i in range(len(pairs))]
    union = sorted(pair for pairs in workers for pair in pairs)
    assert union == whole[first:]


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
