"""A trained classifier -> a SavedModel with the signatures of the contract.

Weights are frozen to constants: the file is half the size that `model.export`
writes, inference is faster, and a version is one file, so that no reader can
meet one whose variables have not arrived.
"""

import hashlib
import json
import os
import shutil
import uuid

import keras
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from trainer.data import preprocessing
from trainer.export import signature


def _freeze(model: keras.Model):
    """The model as a function of constants: pixels -> logits."""
    spec = tf.TensorSpec([None, *model.input.shape[1:]], tf.float32)
    function = tf.function(lambda pixels: model(pixels, training=False))
    return convert_to_constants.convert_variables_to_constants_v2(
        function.get_concrete_function(spec)
    )


class ServingModule(tf.Module):
    """The signatures of the serving contract around frozen weights."""

    def __init__(
        self,
        model: keras.Model,
        *,
        class_names: tuple[str, ...],
        positive_index: int | None,
        temperature: float,
        operating_point: float | None,
    ):
        """Wraps a model.

        Args:
            model: float32, pixels in [0, 255] -> logits.
            class_names: in the order of the labels.
            positive_index: label of the positive class, None for more than
                two classes.
            temperature: logits are divided by it before the softmax.
            operating_point: `decision` is `score >= operating_point`; None
                for more than two classes.
        """
        super().__init__(name="lightbox")
        _, self._image_size, _, self._channels = model.input.shape
        self._frozen = _freeze(model)
        self._class_names = tf.constant(class_names)
        self._positive_index = positive_index
        self._temperature = temperature
        self._operating_point = operating_point

    def _classify(self, pixels: tf.Tensor, valid: tf.Tensor) -> dict:
        # oneDNN's fused convolution fails on an empty batch: one blank image
        # stands in for it and is cut off again.
        num_images = tf.shape(pixels)[0]
        blank = tf.cast(num_images == 0, tf.int32)
        padded = tf.pad(pixels, [[0, blank], [0, 0], [0, 0], [0, 0]])
        logits = self._frozen(padded)[0][:num_images] / self._temperature
        if logits.shape[-1] == 1:
            logits = tf.concat([tf.zeros_like(logits), logits], axis=-1)
        # Zeros, not NaN, for what could not be read: TF Serving writes NaN as
        # a bare token that JSON parsers refuse.
        probabilities = tf.where(valid[:, tf.newaxis], tf.nn.softmax(logits), 0)
        # Of the logits: probabilities near a half can round to a tie.
        label_index = tf.argmax(logits, -1, output_type=tf.int32)
        if self._positive_index is None:
            score = tf.reduce_max(probabilities, axis=-1)
        else:
            score = probabilities[:, self._positive_index]
        outputs = {
            signature.PROBABILITIES: probabilities,
            signature.LABEL: tf.where(
                valid, tf.gather(self._class_names, label_index), ""
            ),
            signature.LABEL_INDEX: tf.where(valid, label_index, -1),
            signature.SCORE: score,
            signature.VALID: valid,
        }
        if self._positive_index is not None:
            outputs[signature.DECISION] = valid & (
                score >= self._operating_point
            )
        return outputs

    def signatures(self) -> dict:
        """Concrete functions by the name of their signature."""

        def serve_bytes(image_bytes):
            pixels, valid = preprocessing.prepare_batch(
                image_bytes, self._image_size, self._channels
            )
            return self._classify(pixels, valid)

        def serve_pixels(pixels):
            valid = tf.reduce_all(tf.math.is_finite(pixels), axis=[1, 2, 3])
            finite = tf.where(
                valid[:, tf.newaxis, tf.newaxis, tf.newaxis], pixels, 0.0
            )
            return self._classify(finite, valid)

        shape = [None, self._image_size, self._image_size, self._channels]
        return {
            signature.SERVING_DEFAULT: tf.function(
                serve_bytes
            ).get_concrete_function(
                tf.TensorSpec([None], tf.string, signature.IMAGE_BYTES)
            ),
            signature.PIXELS: tf.function(serve_pixels).get_concrete_function(
                tf.TensorSpec(shape, tf.float32, signature.PIXELS_INPUT)
            ),
        }


def next_version(export_dir: str) -> int:
    """One more than the newest version under a base path, 1 for the first."""
    if not os.path.isdir(export_dir):
        return 1
    versions = [int(n) for n in os.listdir(export_dir) if n.isdigit()]
    return max(versions, default=0) + 1


def find_version(export_dir: str, facts: dict) -> str | None:
    """The newest version under a base path, if its manifest has these facts.

    A finished run that is started again then exports nothing new.
    """
    newest = os.path.join(export_dir, str(next_version(export_dir) - 1))
    path = os.path.join(newest, signature.MANIFEST_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    same = all(manifest.get(name) == value for name, value in facts.items())
    return newest if same else None


def save_keras(model: keras.Model, path: str) -> None:
    """Saves a `.keras` file; a full disk leaves the previous one."""
    temporary = os.path.join(
        os.path.dirname(path), f"tmp.{uuid.uuid4().hex}.keras"
    )
    try:
        model.save(temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def weights_sha256(model: keras.Model) -> str:
    """Hex digest of all weights."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()


def write_manifest(version_dir: str, facts: dict) -> None:
    """Writes the sha256 of every file of a version, and `facts`.

    `saved_model.pb` has no checksum of its own: a flipped bit would load.
    """
    files = {}
    for directory, _, names in sorted(os.walk(version_dir)):
        for name in sorted(names):
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            relative = os.path.relpath(path, version_dir)
            files[relative] = {
                "sha256": digest,
                "num_bytes": os.path.getsize(path),
            }
    with open(os.path.join(version_dir, signature.MANIFEST_FILE), "w") as file:
        json.dump({**facts, "files": files}, file, indent=2)


def export_version(
    module: ServingModule,
    export_dir: str,
    *,
    assets: dict[str, bytes],
    warmup: bytes | None,
    facts: dict,
) -> str:
    """Writes the next version under a base path; a reader sees all or nothing.

    Args:
        module: to save.
        export_dir: base path, local.
        assets: files for the `assets` directory.
        warmup: content of the warm-up file, a TFRecord of PredictionLogs.
        facts: for the manifest.

    Returns:
        Path of the version directory.
    """
    os.makedirs(export_dir, exist_ok=True)
    # Not a number, so TF Serving does not take it for a version.
    temporary = os.path.join(export_dir, f"tmp.{uuid.uuid4().hex}")
    try:
        tf.saved_model.save(
            module,
            temporary,
            signatures=module.signatures(),
            # Frozen graphs have lost the gradient functions they name.
            options=tf.saved_model.SaveOptions(
                experimental_custom_gradients=False
            ),
        )
        for name, content in assets.items():
            _write(os.path.join(temporary, "assets", name), content)
        if warmup is not None:
            _write(os.path.join(temporary, signature.WARMUP_FILE), warmup)
        write_manifest(temporary, facts)
        version_dir = os.path.join(export_dir, str(next_version(export_dir)))
        os.rename(temporary, version_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return version_dir


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
