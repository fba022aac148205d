"""A shallow EfficientNetB0 for tests of all that is around it.

Nine of the sixteen layer blocks, two of them residual, take half the time to
build and trace. Logical CPUs stand for a machine's GPUs.
"""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications import efficientnet

# Kinds of blocks that suffice where nothing is served or explained.
FEW_KINDS = 2
WHOLE_BACKBONE = keras.applications.EfficientNetB0


def build_backbone(num_kinds: int = 7, **arguments) -> keras.Model:
    """What `keras.applications.EfficientNetB0` gives, with nine blocks.

    Fewer with fewer kinds of blocks, of the seven, from the stem on.
    """
    return efficientnet.EfficientNet(
        1.0,
        1.0,
        224,
        blocks_args=[
            {**block, "repeats": 2 if i in (1, 4) else 1}
            for i, block in enumerate(
                efficientnet.DEFAULT_BLOCKS_ARGS[:num_kinds]
            )
        ],
        name="efficientnetb0",
        **arguments,
    )


@contextlib.contextmanager
def few_kinds():
    """Builds the backbone of `FEW_KINDS` meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        build = functools.partial(build_backbone, FEW_KINDS)
        patch.setattr(keras.applications, "EfficientNetB0", build)
        yield


def normalize(model: keras.Model, pixels: np.ndarray) -> keras.Model:
    """Gives batch norm the statistics of some images.

    Without them an untrained backbone multiplies every image by nearly zero:
    all would have the same answer.
    """
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in layers:
        layer.momentum, layer.synchronized = 0.0, False
    model(pixels, training=True)
    for layer in layers:
        layer.momentum, layer.synchronized = 0.99, True
    return model


def set_up(num_devices: int, num_kinds: int | None = 7) -> None:
    """Gives the process logical CPUs and the shallow backbone.

    Before TensorFlow starts. The whole backbone with no `num_kinds`.
    """
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * num_devices,
    )
    if num_kinds:
        keras.applications.EfficientNetB0 = functools.partial(
            build_backbone, num_kinds
        )
