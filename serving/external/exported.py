"""Loads an exported version, or another SavedModel, to ask it."""

import dataclasses
import json
import os

import tensorflow as tf
from absl import logging
from google.protobuf import message

from serving.external import foreign
from serving.external.asking import Answers, AskedModel
from trainer.data import records
from trainer.export import signature

_UNKNOWN = foreign.Meaning()

_OUTPUTS = (
    signature.PROBABILITIES,
    signature.LABEL,
    signature.LABEL_INDEX,
    signature.SCORE,
    signature.VALID,
)


def load(path: str, meaning: foreign.Meaning = _UNKNOWN) -> AskedModel:
    """Loads a version, or the newest one under a base path.

    Args:
        path: of either.
        meaning: of inputs and outputs, if Lightbox did not export it.

    Raises:
        FileNotFoundError: if there is no SavedModel.
        ValueError: if it is damaged, or cannot be asked.
    """
    directory = _find_version(path)
    # It warns that frozen graphs have no gradients; nobody asks for any.
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        # Kept alive by the functions that are made of it.
        loaded = tf.saved_model.load(directory, tags=["serve"])
        functions = dict(loaded.signatures)
    except (
        OSError,
        ValueError,
        AttributeError,
        KeyError,
        RuntimeError,
        message.DecodeError,
        tf.errors.OpError,
    ) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(
            f"{directory} cannot be loaded ({reason}): copy the whole "
            "directory again, or export it again."
        ) from error
    finally:
        logging.set_verbosity(level)
    function = functions.get(signature.SERVING_DEFAULT)
    if function is None or not set(_OUTPUTS) <= set(
        function.structured_outputs
    ):
        model = foreign.wrap(directory, functions, meaning)
        # `loaded` owns what the functions refer to.
        return dataclasses.replace(
            model, ask=lambda images, _=loaded: model.ask(images)
        )

    def ask(images: list[bytes]) -> Answers:
        outputs = function(**{signature.IMAGE_BYTES: tf.constant(images)})
        outputs = {name: tensor.numpy() for name, tensor in outputs.items()}
        return Answers(
            outputs[signature.PROBABILITIES],
            [label.decode() for label in outputs[signature.LABEL]],
            outputs[signature.LABEL_INDEX],
            outputs[signature.SCORE],
            outputs.get(signature.DECISION),
            outputs[signature.VALID],
            outputs.get(signature.OUT_OF_DISTRIBUTION),
        )

    explain = None
    if signature.EXPLAIN in functions:
        explain = _make_explain(loaded, functions[signature.EXPLAIN])
    info = _read_info(directory)
    return AskedModel(
        directory,
        # `loaded` owns what the signature's function refers to.
        lambda images, _=loaded: ask(images),
        class_names=info.class_names if info else None,
        operating_point=_read_operating_point(directory),
        dataset_fingerprint=info.fingerprint if info else "",
        explain=explain,
    )


def _make_explain(loaded, function):
    def explain(images: list[bytes], _=loaded) -> list[bytes]:
        outputs = function(**{signature.IMAGE_BYTES: tf.constant(images)})
        return outputs[signature.OVERLAY].numpy().tolist()

    return explain


def _find_version(path: str) -> str:
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return path
    versions = []
    if os.path.isdir(path):
        versions = [name for name in os.listdir(path) if name.isdigit()]
    newest = os.path.join(path, max(versions, key=int, default=""))
    if versions and os.path.exists(os.path.join(newest, "saved_model.pb")):
        return newest
    raise FileNotFoundError(
        f"{path} holds no saved_model.pb: give an exported version, for "
        "example run/export/1, or the folder of versions."
    )


def _read_info(directory: str) -> records.DatasetInfo | None:
    path = os.path.join(directory, "assets", signature.DATASET_ASSET)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return records.DatasetInfo.from_json(file.read(), path)


def _read_operating_point(directory: str) -> float | None:
    path = os.path.join(directory, signature.MANIFEST_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file).get("operating_point")
