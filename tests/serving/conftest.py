"""A SavedModel small enough to build in a test, with Lightbox's signatures.

Its probability of the positive class is the mean brightness of the image, so
that expected values can be computed without the model.
"""

import io
import sys

import numpy as np
import pytest
from PIL import Image

# An environment of its own, which `make clients` makes: old clients bring old
# protos, which no environment can hold beside TensorFlow's.
CLIENTS_PYTHON = f"{sys.prefix}/clients/bin/python"
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

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")]
        )
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

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")]
        )
        def explain(self, image_bytes):
            answer = self.from_bytes(image_bytes)
            overlays = tf.where(answer["valid"], OVERLAY, b"")
            return {**answer, "overlay_bytes": overlays}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 8, 8, 1], tf.float32, "pixels")
            ]
        )
        def from_pixels(self, pixels):
            score = tf.reduce_mean(pixels, axis=[1, 2, 3]) / 255
            return self.answer(score, tf.ones_like(score, tf.bool))

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, "inputs")]
        )
        def from_examples(self, inputs):
            examples = tf.io.parse_example(
                inputs,
                {"image_bytes": tf.io.FixedLenFeature([], tf.string)},
            )
            answer = self.from_bytes(examples["image_bytes"])
            classes = tf.broadcast_to(
                tf.constant([CLASS_NAMES]), tf.shape(answer["probabilities"])
            )
            return {"classes": classes, "scores": answer["probabilities"]}

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, "inputs")]
        )
        def regress_examples(self, inputs):
            scores = self.from_examples(inputs)["scores"]
            return {"outputs": scores[:, 1]}

        @tf.function(
            input_signature=[tf.TensorSpec([None, 2], tf.float64, "x")]
        )
        def inverse(self, x):
            return {"y": 1 / x}

    module = Brightness()
    return module, {
        "serving_default": module.from_bytes,
        "pixels": module.from_pixels,
        "explain": module.explain,
        "classify": module.from_examples,
        "regress": module.regress_examples,
        "inverse": module.inverse,
    }


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory):
    """Returns a directory with versions 1 and 2; 2 decides at 0.9."""
    import tensorflow as tf

    directory = tmp_path_factory.mktemp("saved_models")
    for version, operating_point in ((1, 0.5), (2, 0.9)):
        module, signatures = build_module(operating_point)
        tf.saved_model.save(
            module, str(directory / str(version)), signatures=signatures
        )
    return directory


@pytest.fixture(scope="session")
def server(saved_models, tmp_path_factory):
    """Returns a running server of version 1."""
    import shutil

    from serving import local_server

    base_path = tmp_path_factory.mktemp("model_base_path")
    shutil.copytree(saved_models / "1", base_path / "1")
    running = local_server.start(str(base_path), MODEL_NAME)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def grpc_target(server):
    return server.grpc_target


@pytest.fixture(scope="session")
def rest_target(server):
    return server.rest_target


@pytest.fixture
def images():
    """Returns a dark and a bright image, and no image."""
    return [
        encode_image(51),
        encode_image(204, "JPEG"),
        b"no image\x00\xff\x00",
    ]


def expected_probabilities():
    """Returns those of `images`, as the model defines them."""
    return np.array([[0.8, 0.2], [0.2, 0.8], [1.0, 0.0]], np.float32)
