"""Asks a SavedModel that Lightbox did not export as if it had.

Such a model says nothing of its classes, of the range of its pixels or of what
its outputs are; who evaluates it does.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy import special

from serving.external.asking import Answers, AskedModel
from trainer.data import preprocessing

PROBABILITIES, LOGITS = "probabilities", "logits"


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What inputs and outputs of a foreign model mean.

    Attributes:
        class_names: in the order of its outputs. Of two classes the last is
            the positive one, and the one that a single output speaks for.
        outputs: `PROBABILITIES` or `LOGITS`.
        pixel_range: of its input, if that is pixels: what black and white are.
        operating_point: two classes: the threshold on the positive one's
            probability.
    """

    class_names: tuple[str, ...] = ()
    outputs: str = PROBABILITIES
    pixel_range: tuple[float, float] = (0.0, 255.0)
    operating_point: float = 0.5


def wrap(directory: str, functions: dict, meaning: Meaning) -> AskedModel:
    """Makes a model to evaluate of a SavedModel's signatures.

    Args:
        directory: of the SavedModel, for messages.
        functions: its signatures; the one asked is `serving_default`, or the
            only one. Its one input must be encoded images, string `[batch]`,
            or square pixels, `[batch, size, size, 1 or 3]`; its one output
            float `[batch, classes]`, or `[batch, 1]` for two classes.
        meaning: of those.

    Raises:
        ValueError: if it has other inputs or outputs, or no meaning is given.
    """
    names = meaning.class_names
    if len(names) < 2:
        raise ValueError(
            f"{directory} is no export of Lightbox: say with --class_names "
            "what its outputs stand for, for example no_tumor,tumor."
        )
    function = functions.get("serving_default")
    if function is None and len(functions) == 1:
        (function,) = functions.values()
    if function is None:
        raise ValueError(
            f"{directory} has the signatures {', '.join(functions) or 'none'}: "
            "one must be serving_default."
        )
    input_name, prepare = _make_input(directory, function, meaning)
    outputs = function.structured_outputs
    if len(outputs) != 1:
        raise ValueError(
            f"{directory} must have one output, {meaning.outputs} of the "
            f"classes. It has {', '.join(sorted(outputs))}."
        )
    (output_name,) = outputs

    def ask(images: list[bytes]) -> Answers:
        try:
            raw = function(**{input_name: prepare(images)})[output_name]
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{directory} failed on an image: {str(error).splitlines()[0]}"
            ) from error
        probabilities = _to_probabilities(directory, raw.numpy(), meaning)
        indices = probabilities.argmax(axis=1)
        is_binary = len(names) == 2
        return Answers(
            probabilities,
            [names[i] for i in indices],
            indices,
            probabilities[:, -1] if is_binary else probabilities.max(axis=1),
            probabilities[:, -1] >= meaning.operating_point
            if is_binary
            else None,
            np.isfinite(probabilities).all(axis=1),
        )

    return AskedModel(
        directory,
        ask,
        class_names=names,
        operating_point=meaning.operating_point if len(names) == 2 else None,
    )


def _make_input(
    directory: str, function, meaning: Meaning
) -> tuple[str, Callable[[list[bytes]], tf.Tensor]]:
    """Name of the input, and what makes it of encoded images."""
    inputs = function.structured_input_signature[1]
    if len(inputs) == 1:
        ((name, spec),) = inputs.items()
        shape = spec.shape.as_list() if spec.shape.rank else []
        if spec.dtype == tf.string and len(shape) == 1:
            return name, tf.constant
        if (
            len(shape) == 4
            and shape[1] is not None
            and shape[1] == shape[2]
            and shape[3] in (1, 3)
        ):
            low, high = meaning.pixel_range

            def prepare(images: list[bytes]) -> tf.Tensor:
                pixels = tf.stack(
                    [
                        preprocessing.prepare_image(image, shape[1], shape[3])
                        for image in images
                    ]
                )
                pixels = low + pixels * ((high - low) / 255.0)
                if spec.dtype.is_integer:
                    pixels = tf.round(pixels)
                return tf.cast(pixels, spec.dtype)

            return name, prepare
    described = ", ".join(
        f"{name}: {spec.dtype.name} {spec.shape}"
        for name, spec in inputs.items()
    )
    raise ValueError(
        f"{directory} must have one input, encoded images (string [batch]) or "
        "square pixels ([batch, size, size, 1 or 3]). It has "
        f"{described or 'none'}."
    )


def _to_probabilities(
    directory: str, raw: np.ndarray, meaning: Meaning
) -> np.ndarray:
    """Probabilities `[batch, classes]` of what a model gave."""
    num_classes = len(meaning.class_names)
    raw = raw.astype(np.float64)
    if raw.ndim == 1:
        raw = raw[:, np.newaxis]
    allowed = {num_classes} | ({1} if num_classes == 2 else set())
    if raw.ndim != 2 or raw.shape[1] not in allowed:
        raise ValueError(
            f"{directory} gives {raw.shape[-1]} outputs for the "
            f"{num_classes} classes of --class_names."
        )
    is_single = raw.shape[1] == 1
    if meaning.outputs == LOGITS:
        raw = special.expit(raw) if is_single else special.softmax(raw, axis=1)
    finite = raw[np.isfinite(raw).all(axis=1)]
    wrong = ""
    if (finite < 0).any() or (finite > 1).any():
        wrong = "some lie outside of 0 and 1"
    elif not is_single and np.abs(finite.sum(axis=1) - 1).max(initial=0) > 1e-3:
        wrong = "they do not add up to 1"
    if wrong:
        raise ValueError(
            f"{directory} gives no probabilities, {wrong}: say "
            "--model_outputs=logits if they are logits."
        )
    return np.concatenate([1 - raw, raw], axis=1) if is_single else raw
