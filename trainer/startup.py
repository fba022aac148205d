"""What every command does before its work: TensorFlow without its chatter."""

import contextlib
import logging as python_logging
import os
from collections.abc import Iterator

from absl import flags, logging

# Exit code after SIGTERM, that of TensorFlow's own preemption handler;
# schedulers restart a job on any code but 0.
PREEMPTED = 42


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def import_tensorflow() -> None:
    """Imports TensorFlow and drops the notes that its C++ code prints.

    TensorFlow 2.21 prints a dozen lines before it reads its own log level, and
    a user's one-line error would drown in them. Set `TF_CPP_MIN_LOG_LEVEL` to
    see them, for example to learn why a GPU is not used.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with _silent_stderr():
        import tensorflow as tf

        # The CUDA driver is looked for here, without starting a device.
        tf.config.list_physical_devices("GPU")


def import_keras() -> None:
    """Imports TensorFlow and Keras, set as the models here need them.

    What `~/.keras/keras.json` or a notebook sets is meant for other work: with
    `channels_first` a model would train, and learn nothing.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # A notebook's is not known outside of it.
    os.environ["MPLBACKEND"] = "agg"
    import_tensorflow()
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def set_up_logging(package_dir: str) -> None:
    """Logs one plain line per message, from INFO on unless --verbosity says.

    Args:
        package_dir: messages below WARNING come from files in it alone:
            TensorFlow logs each file that a checkpoint or export writes.
    """
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(
        python_logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S")
    )
    handler.addFilter(
        lambda record: (
            record.levelno >= python_logging.WARNING
            or record.pathname.startswith(package_dir)
        )
    )
