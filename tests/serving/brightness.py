"""A SavedModel small enough to build in a test, with Lightbox's signatures.

Its probability of the positive class is the mean brightness of the image, so
that expected values can be computed without the model.
"""

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.samples import encode
from trainer.data import records

MODEL_NAME = "brightness"
CLASS_NAMES = ("bright", "dark")  # the first is positive
# Of patients.
STUDY_RULE, STUDY_THRESHOLD = "noisy_or", 0.875


def encode_image(brightness: int, image_format: str = "PNG") -> bytes:
    """Returns an 8x8 grey image of one brightness, 0 to 255."""
    return encode(np.full((8, 8), brightness, np.uint8), image_format)


OVERLAY = encode_image(77)


def build_signatures(operating_point: float) -> dict:
    """Returns the functions of the model by the names of their signatures."""
    strings = [tf.TensorSpec([None], tf.string, "image_bytes")]
    images = [tf.TensorSpec([None, 8, 8, 1], tf.float32, "pixels")]
    numbers = [tf.TensorSpec([None, 2], tf.float64, "x")]

    def answer(score, valid):
        probabilities = tf.stack([score, 1 - score], axis=1)
        index = tf.argmax(probabilities, axis=1, output_type=tf.int32)
        return {
            "probabilities": probabilities,
            "label": tf.gather(tf.constant(CLASS_NAMES), index),
            "label_index": index,
            "score": score,
            "decision": score >= operating_point,
            "decision_label": tf.gather(
                tf.constant(CLASS_NAMES),
                tf.cast(score < operating_point, tf.int32),
            ),
            "threshold": tf.fill(tf.shape(score), operating_point),
            "valid": valid,
            "class_names": tf.where(
                valid[:, tf.newaxis], tf.constant(CLASS_NAMES), ""
            ),
            "prediction_set": probabilities >= 0.25,
            "study_rule": tf.fill(tf.shape(score), STUDY_RULE),
            "study_threshold": tf.fill(tf.shape(score), STUDY_THRESHOLD),
            "out_of_distribution": 2 * score,
            "is_out_of_distribution": 2 * score > 1,
        }

    def decode(contents):
        scores = (
            tf.data.Dataset.from_tensors(contents)
            .map(lambda c: tf.io.decode_image(c, channels=1))
            .map(lambda p: tf.reduce_mean(tf.cast(p, tf.float32)) / 255)
            .ignore_errors()
            .concatenate(tf.data.Dataset.from_tensors(-1.0))
            .take(1)
        )
        return scores.get_single_element()

    @tf.function(input_signature=strings)
    def from_bytes(image_bytes):
        score = tf.map_fn(decode, image_bytes, tf.float32)
        return answer(tf.maximum(score, 0.0), score >= 0)

    @tf.function(input_signature=strings)
    def explain(image_bytes):
        answers = from_bytes(image_bytes)
        overlays = tf.where(answers["valid"], OVERLAY, b"")
        return {**answers, "overlay_bytes": overlays}

    @tf.function(input_signature=images)
    def from_pixels(pixels):
        score = tf.reduce_mean(pixels, axis=[1, 2, 3]) / 255
        return answer(score, tf.ones_like(score, tf.bool))

    @tf.function(input_signature=numbers)
    def inverse(x):
        return {"y": 1 / x}

    return {
        "serving_default": from_bytes,
        "pixels": from_pixels,
        "explain": explain,
        "inverse": inverse,
    }


def save_versions(directory) -> None:
    """Writes version 1, which decides at 0.5, and version 2, at 0.9."""
    window = {"window_center": 1000.0, "window_width": 500.0}
    info = records.DatasetInfo(CLASS_NAMES, "bright", 1, 8, {}, (), "", window)
    for version, operating_point in ((1, 0.5), (2, 0.9)):
        path = directory / str(version)
        signatures = build_signatures(operating_point)
        tf.saved_model.save(tf.Module(), str(path), signatures)
        (path / "assets" / "dataset.json").write_text(info.to_json())


def predict_request(signature_name="", name=MODEL_NAME, **inputs):
    """Returns the proto that asks a signature."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request
