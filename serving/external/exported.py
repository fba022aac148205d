"""Loads an exported version, or another SavedModel, to ask it."""

import dataclasses
import os

import tensorflow as tf
from absl import logging
from google.protobuf import message

from serving.external import foreign
from serving.external.asking import Answers, AskedModel
from trainer.data import records
from trainer.evaluation import calibration
from trainer.export import signature, versions
from trainer.storage import paths

_UNKNOWN = foreign.Meaning()

_OUTPUTS = (
    signature.PROBABILITIES,
    signature.LABEL,
    signature.LABEL_INDEX,
    signature.SCORE,
    signature.VALID,
)


def load(directory: str, meaning: foreign.Meaning = _UNKNOWN) -> AskedModel:
    """Loads a version.

    Args:
        directory: of the version, local.
        meaning: of inputs and outputs, if Lightbox did not export it.

    Raises:
        ValueError: if it is damaged, or cannot be asked.
    """
    files = versions.list_plain_files(directory)
    loaded, functions = _load(directory)
    function = functions.get(signature.SERVING_DEFAULT)
    if function is None or not set(_OUTPUTS) <= set(
        function.structured_outputs
    ):
        model = foreign.wrap(directory, functions, meaning)
        # `loaded` owns what the functions refer to, here and below.
        return dataclasses.replace(
            model, ask=lambda images, _=loaded: model.ask(images)
        )

    def ask(images: list[bytes], _=loaded) -> Answers:
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

    def explain(images: list[bytes], _=loaded) -> list[bytes]:
        outputs = functions[signature.EXPLAIN](
            **{signature.IMAGE_BYTES: tf.constant(images)}
        )
        return outputs[signature.OVERLAY].numpy().tolist()

    info = _read_info(directory)
    facts = {}
    if signature.MANIFEST_FILE in files:
        facts = versions.read_manifest(directory)
    return AskedModel(
        directory,
        ask,
        class_names=info.class_names if info else None,
        operating_point=facts.get("operating_point"),
        dataset_fingerprint=info.fingerprint if info else "",
        explain=explain if signature.EXPLAIN in functions else None,
        study=facts.get("study") and calibration.StudyChoice(**facts["study"]),
        sets=facts.get("sets") and calibration.SetChoice(**facts["sets"]),
    )


def _load(directory: str):
    """A SavedModel and its signatures."""
    # It warns that frozen graphs have no gradients; nobody asks for any.
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        loaded = tf.saved_model.load(directory, tags=["serve"])
        return loaded, dict(loaded.signatures)
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


def _read_info(directory: str) -> records.DatasetInfo | None:
    path = os.path.join(directory, "assets", signature.DATASET_ASSET)
    if not os.path.exists(path):
        return None
    text = paths.read_bytes(path).decode("utf-8")
    return records.DatasetInfo.from_json(text, path)
