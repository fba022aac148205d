"""Batches, padding and replicas change no figure."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.samples import make_strategy
from trainer.data import input_pipeline
from trainer.evaluation import metrics
from trainer.evaluation.predictions import make_predictions
from trainer.training import distribution, loop


def compute(data_dir, strategy_name, global_batch_size):
    strategy = make_strategy(strategy_name)
    info = input_pipeline.read_dataset_info(str(data_dir))
    index = input_pipeline.read_index(str(data_dir), info)["train"]
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
        logits = loop.predict_all(step, dataset, 22, global_batch_size)
    predictions = make_predictions(*index, logits)
    decided = predictions.decide(("no_tumor", "tumor"), 1, 0.5)
    return dataclasses.asdict(metrics.compute_metrics(decided, 100))


def values(node, path=""):
    """Every number of a nested dictionary, by its path."""
    if isinstance(node, dict):
        pairs = node.items()
    elif isinstance(node, list | tuple):
        pairs = enumerate(node)
    else:
        return {path: node}
    return {
        k: v
        for key, part in pairs
        for k, v in values(part, f"{path}/{key}").items()
    }


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
def test_batches_padding_and_replicas_change_no_figure(
    tiny_records, strategy_name, global_batch_size
):
    expected = values(compute(tiny_records, "one_device", 22))
    measured = values(compute(tiny_records, strategy_name, global_batch_size))
    assert measured.keys() == expected.keys()
    assert 0.5 < expected["/metrics/roc_auc/value"] < 1
    for name, value in expected.items():
        if isinstance(value, float):
            np.testing.assert_allclose(
                measured[name], value, rtol=1e-6, atol=1e-9
            )
        else:
            assert measured[name] == value
