"""Warm-up requests: the first real request must not pay for initialization."""

import os
import tempfile

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from trainer.data import phantom
from trainer.export import signature

# TF Serving pads a batch to one of the allowed sizes; each is warmed.
BATCH_SIZES = (1, 2, 4, 8)
# Beyond it TF Serving does not load the version.
MAX_RECORDS = 1000
_LEVEL = 16


def make_images(image_size: int, channels: int) -> list[bytes]:
    """Two slices of a head that nobody has, at the size of the model's input.

    A JPEG and a PNG, which the graph decodes by different ops. Those of the
    data set would go wherever the export goes.
    """
    rng = np.random.default_rng(0)
    (setting,) = phantom.draw_settings(rng, 1)
    patient = phantom.draw_patient(rng, setting, 2, has_lesion=False)
    first, second = (
        # Of few levels, or the noise would fill the file: every record repeats
        # its images, and a large file takes long to upload and to load.
        np.repeat(
            phantom.draw_slice(patient, index, image_size, rng)[..., None]
            // _LEVEL
            * _LEVEL,
            channels,
            axis=-1,
        )
        for index in range(2)
    )
    return [
        tf.io.encode_jpeg(first, quality=75).numpy(),
        tf.io.encode_png(second, compression=9).numpy(),
    ]


def make_warmup_file(model_name: str, image_size: int, channels: int) -> bytes:
    """The content of `assets.extra/tf_serving_warmup_requests`.

    Args:
        model_name: for the request's model spec.
        image_size: height and width of the model's input, in pixels.
        channels: of the model's input.

    Returns:
        A TFRecord file of `PredictionLog` protos, one per signature and batch
        size.
    """
    images = make_images(image_size, channels)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "requests")
        with tf.io.TFRecordWriter(path) as writer:
            for batch_size in BATCH_SIZES:
                batch = [images[i % 2] for i in range(batch_size)]
                shape = [batch_size, image_size, image_size, channels]
                for log in _make_logs(batch, model_name, shape):
                    writer.write(log.SerializeToString())
        with open(path, "rb") as file:
            return file.read()


def _make_logs(
    batch: list[bytes], model_name: str, pixels_shape: list[int]
) -> list[prediction_log_pb2.PredictionLog]:
    """A request to each signature."""
    encoded = tf.make_tensor_proto(batch, tf.string)
    # Even grey, which a proto holds as one number: pixels as floats would take
    # more than all weights.
    pixels = tf.make_tensor_proto([128.0], tf.float32)
    pixels.tensor_shape.CopyFrom(tf.TensorShape(pixels_shape).as_proto())
    inputs = {
        signature.SERVING_DEFAULT: (signature.IMAGE_BYTES, encoded),
        signature.EXPLAIN: (signature.IMAGE_BYTES, encoded),
        signature.PIXELS: (signature.PIXELS_INPUT, pixels),
    }
    logs = []
    for name, (key, tensor) in inputs.items():
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.model_spec.name = model_name
        log.predict_log.request.model_spec.signature_name = name
        log.predict_log.request.inputs[key].CopyFrom(tensor)
        logs.append(log)
    return logs
