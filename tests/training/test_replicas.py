"""The whole classifier, trained on one device and on two replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.samples import IMAGE_SIZE, make_strategy
from trainer.data import augmentation, input_pipeline
from trainer.model import classifier, dropout
from trainer.training import distribution, train_step

BATCH = 8


def train_dataset(strategy, directory, image_size, accumulation_steps):
    info = input_pipeline.read_dataset_info(str(directory))
    return distribution.distribute(
        strategy,
        lambda num_workers, worker_index: input_pipeline.make_train_dataset(
            input_pipeline.split_files(str(directory), info, "train"),
            shard_sizes=info.shard_sizes("train"),
            image_size=image_size,
            channels=1,
            augmentation=augmentation.Augmentation(),
            global_batch_size=BATCH,
            per_replica_batch_size=distribution.per_replica_batch_size(
                strategy, BATCH, accumulation_steps
            ),
            seed=0,
            num_workers=num_workers,
            worker_index=worker_index,
        ),
    )


def run_steps(
    strategy_name,
    directory,
    num_steps,
    train_batch_norm,
    accumulation_steps=1,
    gradient_clip_norm=0.0,
):
    """Trains the whole classifier with all its random layers on."""
    strategy = make_strategy(strategy_name)
    # Batch norm over few values divides by tiny variances, which turns rounding
    # into differences: a feature map of 2x2 rather than 1x1.
    image_size = 64 if train_batch_norm else IMAGE_SIZE
    with strategy.scope():
        keras.utils.set_random_seed(0)
        drop = dropout.GlobalBatchDropout
        head = classifier.build_head(2, (8,), 0.3, drop)
        model = classifier.build_classifier(image_size, 1, head, "none", drop)
        # Of the blocks that there are, all, or the top two.
        blocks = 9 if train_batch_norm else 7
        classifier.set_trainable(model, blocks, train_batch_norm)
        # SGD: a first step of Adam is the sign of a gradient, and turns
        # rounding of a zero gradient into a step.
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        if keras.config.dtype_policy().name == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
        train_steps = train_step.make_train_function(
            strategy,
            train_step.ReplicaStep(
                model,
                optimizer,
                class_weights=np.array([0.5, 2.0], np.float32),
                label_smoothing=0.1,
                global_batch_size=BATCH,
                seed=0,
                gradient_clip_norm=gradient_clip_norm,
            ),
            accumulation_steps,
        )
        iterator = iter(
            train_dataset(strategy, directory, image_size, accumulation_steps)
        )
        sums = train_steps(
            iterator,
            tf.constant(0, tf.int64),
            tf.constant(num_steps, tf.int64),
            tf.constant(0.0),
        )
    return sums.numpy()[:3], model.get_weights()


@pytest.mark.slow
@pytest.mark.usefixtures("few_kinds")
@pytest.mark.parametrize(
    ("train_batch_norm", "accumulation_steps", "gradient_clip_norm"),
    [(False, 2, 0.1), (True, 1, 0.0)],
)
def test_two_replicas_train_as_one_device(
    tiny_records, train_batch_norm, accumulation_steps, gradient_clip_norm
):
    sums, weights = run_steps(
        "one_device", tiny_records, 1, train_batch_norm, 1, gradient_clip_norm
    )
    mirrored_sums, mirrored_weights = run_steps(
        "mirrored",
        tiny_records,
        1,
        train_batch_norm,
        accumulation_steps,
        gradient_clip_norm,
    )
    np.testing.assert_allclose(mirrored_sums, sums, rtol=1e-5)
    assert sums[2] == BATCH
    # With batch norm trained, pixels changed by 2e-7 of their value move the
    # weights of one device by 2.4e-5: two replicas can be no closer than that.
    atol = 5e-5 if train_batch_norm else 1e-6
    for one, two in zip(weights, mirrored_weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=atol)


@pytest.mark.slow
@pytest.mark.usefixtures("few_kinds")
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_on_two_replicas_stays_finite(tiny_records, policy):
    keras.config.set_dtype_policy(policy)
    try:
        sums, weights = run_steps("mirrored", tiny_records, 3, False)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(sums).all()
    assert sums[2] == 3 * BATCH
    assert all(np.isfinite(w).all() for w in weights)
    # Normalization counts; all else is kept in full precision.
    assert {str(w.dtype) for w in weights} <= {"float32", "int64"}
