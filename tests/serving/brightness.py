"""A SavedModel small enough to build in a test, with Lightbox's signatures.

Its probability of the positive class is the mean brightness of the image, so
that expected values can be computed without the model.
"""

import io

from PIL import Image

from trainer.data import records

MODEL_NAME = "brightness"
CLASS_NAMES = ("dark", "bright")


def encode_image(brightness: int, image_format: str = "PNG") -> bytes:
    """Returns an 8x8 grey image of one brightness, 0 to 255."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), brightness).save(buffer, image_format)
    return buffer.getvalue()


OVERLAY = encode_image(77)


def build_module(operating_point: float):
    """Returns the model and its signatures."""
    import tensorflow as tf

    strings = [tf.TensorSpec([None], tf.string, "image_bytes")]
    pixels = [tf.TensorSpec([None, 8, 8, 1], tf.float32, "pixels")]
    numbers = [tf.TensorSpec([None, 2], tf.float64, "x")]

    class Brightness(tf.Module):
        def answer(self, score, valid):
            probabilities = tf.stack([1 - score, score], axis=1)
            index = tf.argmax(probabilities, axis=1, output_type=tf.int32)
            return {
                "probabilities": probabilities,
                "label": tf.gather(tf.constant(CLASS_NAMES), index),
                "label_index": index,
                "score": score,
                "decision": score >= operating_point,
                "valid": valid,
                "out_of_distribution": 2 * score,
                "is_out_of_distribution": 2 * score > 1,
            }

        @tf.function(input_signature=strings)
        def from_bytes(self, image_bytes):
            def decode(contents):
                pixels = (
                    tf.data.Dataset.from_tensors(contents)
                    .map(lambda c: tf.io.decode_image(c, channels=1))
                    .map(lambda p: tf.reduce_mean(tf.cast(p, tf.float32)) / 255)
                    .ignore_errors()
                    .concatenate(tf.data.Dataset.from_tensors(-1.0))
                    .take(1)
                )
                return pixels.get_single_element()

            score = tf.map_fn(decode, image_bytes, tf.float32)
            return self.answer(tf.maximum(score, 0.0), score >= 0)

        @tf.function(input_signature=strings)
        def explain(self, image_bytes):
            answer = self.from_bytes(image_bytes)
            overlays = tf.where(answer["valid"], OVERLAY, b"")
            return {**answer, "overlay_bytes": overlays}

        @tf.function(input_signature=pixels)
        def from_pixels(self, pixels):
            score = tf.reduce_mean(pixels, axis=[1, 2, 3]) / 255
            return self.answer(score, tf.ones_like(score, tf.bool))

        @tf.function(input_signature=numbers)
        def inverse(self, x):
            return {"y": 1 / x}

    module = Brightness()
    return module, {
        "serving_default": module.from_bytes,
        "pixels": module.from_pixels,
        "explain": module.explain,
        "inverse": module.inverse,
    }


def save_versions(directory) -> None:
    """Writes version 1, which decides at 0.5, and version 2, at 0.9."""
    import tensorflow as tf

    info = records.DatasetInfo(CLASS_NAMES, "bright", 1, 8, {}, (), "", {})
    for version, operating_point in ((1, 0.5), (2, 0.9)):
        module, signatures = build_module(operating_point)
        path = directory / str(version)
        tf.saved_model.save(module, str(path), signatures=signatures)
        (path / "assets" / "dataset.json").write_text(info.to_json())


def predict_request(signature_name="", name=MODEL_NAME, **inputs):
    """Returns the proto that asks a signature."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request
