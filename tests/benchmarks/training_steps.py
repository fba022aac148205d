"""Tells how many images a second one framework fine-tunes, pixels in memory.

    PYTHON training_steps.py FRAMEWORK

`training_loop.py` runs it in an environment of the framework's own. Each trains
all weights of EfficientNetB0 and a logit with AdamW in float32, with
drop-connect and dropout, the batch norm frozen.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

IMAGE_SIZE = 224
BATCH = 16
NUM_STEPS = 4
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(
    0, 256, [NUM_STEPS * BATCH, IMAGE_SIZE, IMAGE_SIZE, 3]
).astype(np.float32)
LABELS = RNG.integers(0, 2, NUM_STEPS * BATCH).astype(np.float32)[:, None]


def lightbox() -> Callable[[], None]:
    import keras
    import tensorflow as tf

    from trainer.model import classifier
    from trainer.model.dropout import GlobalBatchDropout
    from trainer.training import distribution, train_step

    strategy = distribution.create_strategy("one_device")
    with strategy.scope():
        head = classifier.build_head(2, (), 0.3, GlobalBatchDropout)
        model = classifier.build_classifier(
            IMAGE_SIZE, 3, head, "none", GlobalBatchDropout
        )
        classifier.set_trainable(model, 9, train_batch_norm=False)
        optimizer = keras.optimizers.AdamW(1e-4)
        optimizer.build(model.trainable_variables)
        train_steps = train_step.make_train_function(
            strategy,
            train_step.ReplicaStep(
                model,
                optimizer,
                class_weights=np.ones(2, np.float32),
                label_smoothing=0.0,
                global_batch_size=BATCH,
                seed=0,
            ),
        )
    batches = tf.data.Dataset.from_tensor_slices(
        {
            "inputs": PIXELS,
            "labels": LABELS[:, 0].astype(np.int32),
            "places": np.arange(len(LABELS)) % BATCH,
        }
    )
    batches = batches.batch(BATCH).repeat()
    iterator = iter(distribution.distribute(strategy, lambda *_: batches))
    num_steps = tf.constant(NUM_STEPS, tf.int64)

    def train():
        with strategy.scope():
            train_steps(
                iterator, tf.zeros([], tf.int64), num_steps, tf.zeros([])
            ).numpy()

    return train


def keras() -> Callable[[], None]:
    """On the backend that KERAS_BACKEND names, without `fit`'s input."""
    import keras

    backbone = keras.applications.EfficientNetB0(
        include_top=False,
        weights=None,
        input_shape=PIXELS.shape[1:],
        pooling="avg",
    )
    outputs = keras.layers.Dropout(0.3)(backbone.output)
    model = keras.Model(backbone.input, keras.layers.Dense(1)(outputs))
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    model.compile(
        keras.optimizers.AdamW(1e-4),
        keras.losses.BinaryCrossentropy(from_logits=True),
        # XLA makes TensorFlow's convolutions on a CPU ten times slower.
        jit_compile=keras.backend.backend() == "jax",
    )

    def train():
        for i in range(0, len(PIXELS), BATCH):
            model.train_on_batch(PIXELS[i : i + BATCH], LABELS[i : i + BATCH])

    return train


def timm() -> Callable[[], None]:
    """PyTorch with channels last; `torch.compile` made it no faster."""
    import timm
    import torch

    torch.set_num_threads(2)
    model = timm.create_model(
        "efficientnet_b0", num_classes=1, drop_rate=0.3, drop_path_rate=0.2
    ).to(memory_format=torch.channels_last)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, 1e-4, fused=True)
    # Seen as channels first, laid out as channels last.
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).split(BATCH)
    labels = torch.from_numpy(LABELS).split(BATCH)

    def train():
        for inputs, targets in zip(pixels, labels, strict=True):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                model(inputs / 255), targets
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def images_per_second(train: Callable[[], None]) -> float:
    start = time.perf_counter()
    train()
    return len(PIXELS) / (time.perf_counter() - start)


if __name__ == "__main__":
    import turns

    train = globals()[sys.argv[1]]()
    train()
    turns.take(lambda: images_per_second(train))
