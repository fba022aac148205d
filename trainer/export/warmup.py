"""Warm-up requests: the first real request must not pay for initialization."""

import os
import tempfile

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from trainer.data import preprocessing
from trainer.export import signature

# TF Serving pads a batch to one of the allowed sizes; each is warmed.
BATCH_SIZES = (1, 2, 4, 8)
# Beyond it TF Serving does not load the version.
MAX_RECORDS = 1000


def shrink_image(image_bytes: bytes, image_size: int, channels: int) -> bytes:
    """A real image as the model sees it, as a JPEG of some kilobytes.

    Every record repeats its images, and a large file takes long to upload and
    to load.
    """
    pixels = preprocessing.prepare_image(image_bytes, image_size, channels)
    return tf.io.encode_jpeg(
        tf.cast(tf.round(pixels), tf.uint8), quality=75
    ).numpy()


def make_warmup_file(
    images: list[bytes], model_name: str, image_size: int, channels: int
) -> bytes:
    """The content of `assets.extra/tf_serving_warmup_requests`.

    Args:
        images: JPEG or PNG bytes of real images, at least one.
        model_name: for the request's model spec.
        image_size: height and width of the model's input, in pixels.
        channels: of the model's input.

    Returns:
        A TFRecord file of `PredictionLog` protos, one per signature and batch
        size.
    """
    small = [shrink_image(image, image_size, channels) for image in images]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "requests")
        with tf.io.TFRecordWriter(path) as writer:
            for batch_size in BATCH_SIZES:
                batch = [small[i % len(small)] for i in range(batch_size)]
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
    # Even grey, which a proto holds as one number: real pixels as floats would
    # take more than all weights.
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
