"""Batches, padding and replicas change no answer."""

import functools

import keras
import numpy as np
import pytest

from tests.samples import make_strategy
from trainer.data import input_pipeline
from trainer.training import distribution, loop


@functools.cache
def predict(data_dir, strategy_name, global_batch_size):
    strategy = make_strategy(strategy_name)
    info = input_pipeline.read_dataset_info(str(data_dir))
    per_replica = global_batch_size // strategy.num_replicas_in_sync
    with strategy.scope():
        # The brightest spot of a corner tells some tumors.
        model = keras.Sequential(
            [
                keras.Input((32, 32, 1)),
                keras.layers.Cropping2D(((0, 17), (0, 17))),
                keras.layers.GlobalMaxPooling2D(),
                keras.layers.Rescaling(0.1, offset=-10),
            ]
        )
        step = loop.make_predict_function(strategy, model)
        dataset = distribution.distribute(
            strategy,
            lambda num_workers, worker_index: (
                input_pipeline.make_evaluation_dataset(
                    input_pipeline.split_files(str(data_dir), info, "train"),
                    shard_sizes=info.shard_sizes("train"),
                    image_size=32,
                    channels=1,
                    global_batch_size=global_batch_size,
                    per_replica_batch_size=per_replica,
                    num_workers=num_workers,
                    worker_index=worker_index,
                )
            ),
        )
        return loop.predict_all(step, dataset, 22, global_batch_size)


@pytest.mark.parametrize(
    ("strategy_name", "global_batch_size"),
    [
        ("one_device", 1),
        ("one_device", 5),
        ("one_device", 64),
        ("mirrored", 4),
        ("mirrored", 22),
    ],
)
def test_batches_padding_and_replicas_change_no_answer(
    tiny_records, strategy_name, global_batch_size
):
    expected = predict(tiny_records, "one_device", 22)
    logits = predict(tiny_records, strategy_name, global_batch_size)
    assert logits.shape == (22, 1) and len(np.unique(expected)) > 10
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-9)
