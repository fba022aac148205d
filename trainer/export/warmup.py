"""Warm-up requests: the first real request must not pay for initialization."""

import os
import tempfile

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from trainer.export import signature

# TF Serving pads a batch to one of the allowed sizes; each is warmed.
BATCH_SIZES = (1, 2, 4, 8)


def make_warmup_file(images: list[bytes], model_name: str) -> bytes:
    """The content of `assets.extra/tf_serving_warmup_requests`.

    Args:
        images: JPEG or PNG bytes of real images, at least one.
        model_name: for the request's model spec.

    Returns:
        A TFRecord file of `PredictionLog` protos, one per batch size.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "requests")
        with tf.io.TFRecordWriter(path) as writer:
            for batch_size in BATCH_SIZES:
                batch = [images[i % len(images)] for i in range(batch_size)]
                request = predict_pb2.PredictRequest()
                request.model_spec.name = model_name
                request.model_spec.signature_name = signature.SERVING_DEFAULT
                request.inputs[signature.IMAGE_BYTES].CopyFrom(
                    tf.make_tensor_proto(batch, tf.string)
                )
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())
        with open(path, "rb") as file:
            return file.read()
