"""A shallow EfficientNetB0 for tests of all that is around it.

    python -m tests.quick NUM_DEVICES MODULE FLAGS…

runs a command with it. Nine of the sixteen layer blocks, two of them residual,
take half the time to build and trace. The logical CPUs stand for a machine's
GPUs.
"""

import functools
import runpy
import sys

import keras
import tensorflow as tf
from keras.src.applications import efficientnet

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


if __name__ == "__main__":
    _, num_devices, module, *rest = sys.argv
    sys.argv = [module, *rest]
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(num_devices),
    )
    # What is served and explained needs all kinds of blocks, training does not.
    num_kinds = 3 if module == "tests.train_only" else 7
    keras.applications.EfficientNetB0 = functools.partial(
        build_backbone, num_kinds
    )
    runpy.run_module(module, run_name="__main__", alter_sys=True)
