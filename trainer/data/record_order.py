"""In which order training reads the records, and who reads which.

Every training image has a position in one endless global stream: epoch `e`
has the positions `e N` to `(e + 1) N - 1`, and consecutive positions make up
the global batches. The stream is woven of `V` strands: position `p` belongs to
strand `p mod V`, and in each epoch a strand reads a range of records of its
own, in an order of its own. As `V` divides the global batch, a worker that
takes `V / W` of the strands has exactly its share of every batch, and opens
only the shards that its strands reach into. `V` depends on the shards and the
batch alone: the batches are the same whatever the number of workers.
"""

from collections.abc import Sequence

import tensorflow as tf

# Encoded images that are shuffled together: of one channel, some 160 MB.
SHUFFLE_WINDOW = 16_384
# Shards read at a time, record by record in turn.
CYCLE_LENGTH = 16
MAX_STRANDS = 32


def choose_num_strands(num_shards: int, global_batch_size: int) -> int:
    """The largest divisor of the batch for which no strand lacks a shard."""
    most = min(num_shards, MAX_STRANDS, global_batch_size)
    return max(n for n in range(1, most + 1) if global_batch_size % n == 0)


def make_training_records(
    files: Sequence[str],
    shard_sizes: Sequence[int],
    *,
    global_batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 1,
    worker_index: int = 0,
) -> tf.data.Dataset:
    """The endless stream of one worker's records.

    Every epoch has every record once, over all workers, in an order that is a
    function of the seed and the epoch. With more workers than strands each
    reads all shards and drops the records of the others. For the arguments see
    `input_pipeline.make_train_dataset`.

    Returns:
        Dataset of a position, int64 scalar, and a serialized example, string
        scalar, by ascending position.
    """
    num_images = sum(shard_sizes)
    num_strands = choose_num_strands(len(files), global_batch_size)
    shares_strands = num_strands % num_workers != 0
    own = list(range(num_strands))
    if not shares_strands:
        share = num_strands // num_workers
        own = own[worker_index * share : (worker_index + 1) * share]
    read_strand = _strand_reader(files, shard_sizes, num_strands, seed)

    @tf.autograph.experimental.do_not_convert
    def read_epoch(epoch):
        # By the position of their first records: then taking turns gives
        # ascending positions, as no strand is more than a record longer.
        strands = tf.constant(own, tf.int64)
        lead = (strands - epoch * num_images) % num_strands
        strands = tf.gather(strands, tf.argsort(lead))
        return tf.data.Dataset.from_tensor_slices(strands).interleave(
            lambda strand: read_strand(epoch, strand), cycle_length=len(own)
        )

    start = start_step * global_batch_size
    first_epoch = start // num_images
    num_done = sum(
        _count(start, strand, num_strands)
        - _count(first_epoch * num_images, strand, num_strands)
        for strand in own
    )
    dataset = tf.data.Dataset.range(first_epoch, tf.int64.max)
    dataset = dataset.flat_map(read_epoch).skip(num_done)
    if not shares_strands:
        return dataset
    per_worker = global_batch_size // num_workers
    return dataset.filter(
        lambda position, _: (
            position % global_batch_size // per_worker == worker_index
        )
    )


def _count(position, strand, num_strands):
    """How many positions before one belong to a strand."""
    return (position + num_strands - 1 - strand) // num_strands


def _strand_reader(files, shard_sizes, num_strands, seed):
    """Makes the function that reads a strand of an epoch."""
    num_images = sum(shard_sizes)
    files = tf.constant(list(files))
    sizes = tf.constant(list(shard_sizes), tf.int64)
    shard_starts = tf.cumsum(sizes, exclusive=True)

    def read_strand(epoch, strand):
        first, end = epoch * num_images, (epoch + 1) * num_images
        strands = tf.range(num_strands, dtype=tf.int64)
        counts = _count(end, strands, num_strands) - _count(
            first, strands, num_strands
        )
        range_end = tf.cumsum(counts)[strand]
        range_start = range_end - counts[strand]
        skips = tf.clip_by_value(range_start - shard_starts, 0, sizes)
        takes = tf.clip_by_value(range_end - shard_starts, 0, sizes) - skips
        # Stateless: an epoch's order needs none of the epochs before it.
        # `Dataset.shuffle` would need them: its seed cannot be a tensor.
        order_seed = tf.stack([seed, epoch * num_strands + strand])
        shards = tf.random.experimental.stateless_shuffle(
            tf.where(takes > 0)[:, 0], order_seed
        )
        dataset = tf.data.Dataset.from_tensor_slices(shards).interleave(
            lambda i: (
                tf.data.TFRecordDataset(files[i]).skip(skips[i]).take(takes[i])
            ),
            cycle_length=max(1, CYCLE_LENGTH // num_strands),
        )
        # Encoded images are shuffled, not pixels, which would take more room.
        window = max(1, min(num_images, SHUFFLE_WINDOW) // num_strands + 1)
        dataset = dataset.batch(window).map(
            lambda some: tf.random.experimental.stateless_shuffle(
                some, order_seed
            )
        )
        lead = (strand - first) % num_strands
        positions = tf.data.Dataset.range(first + lead, end, num_strands)
        return tf.data.Dataset.zip(positions, dataset.unbatch())

    return read_strand


def make_records_once(
    files: Sequence[str],
    shard_sizes: Sequence[int],
    *,
    global_batch_size: int,
    num_workers: int = 1,
    worker_index: int = 0,
) -> tf.data.Dataset:
    """One worker's range of all records, in the order of the shards, padded.

    The records of all workers are padded to a multiple of the global batch.

    Returns:
        Dataset of a position, int64 scalar, and a serialized example, string
        scalar, empty from position `sum(shard_sizes)` on.
    """
    num_images = sum(shard_sizes)
    num_steps = -(-num_images // global_batch_size)
    per_worker = num_steps * global_batch_size // num_workers
    first, end = worker_index * per_worker, (worker_index + 1) * per_worker
    pieces, shard_start = [], 0
    for file, size in zip(files, shard_sizes, strict=True):
        skip = min(max(first - shard_start, 0), size)
        take = min(max(end - shard_start, 0), size) - skip
        if take:
            pieces.append((file, skip, take))
        shard_start += size
    num_blanks = per_worker - sum(take for _, _, take in pieces)
    blanks = tf.data.Dataset.from_tensors(tf.constant(b"")).repeat(num_blanks)
    if not pieces:
        return blanks.enumerate(first)
    paths, skips, takes = (list(column) for column in zip(*pieces, strict=True))
    dataset = tf.data.Dataset.from_tensor_slices(
        (
            tf.constant(paths),
            tf.constant(skips, tf.int64),
            tf.constant(takes, tf.int64),
        )
    ).flat_map(
        lambda path, skip, take: (
            tf.data.TFRecordDataset(path).skip(skip).take(take)
        )
    )
    return dataset.concatenate(blanks).enumerate(first)
