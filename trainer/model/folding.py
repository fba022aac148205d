"""Batch norm folded into the convolutions before it: fewer ops at inference."""

import keras
import numpy as np

from trainer.model import classifier

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A copy for inference in which convolutions have taken up batch norm.

    At inference batch norm is `scale * x + shift` per channel, with constants
    that a convolution's kernel and bias can absorb. TensorFlow then runs each
    convolution with its bias as one op.

    Args:
        model: flat, of Keras' own layers; batch norm that follows a
            convolution without bias is folded, other is kept.

    Returns:
        Model with the same layer names and, to rounding, the same outputs at
        inference.
    """
    folded = _foldable(model)
    norms = set(folded.values())

    def clone_layer(layer):
        config = layer.get_config()
        if layer.name in norms:
            # Not of the global dtype policy, which training may have mixed.
            return keras.layers.Identity(
                name=layer.name, dtype=layer.dtype_policy
            )
        if layer.name in folded:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    def call_layer(layer, *args, **kwargs):
        # Batch norm was called with a mask, which its stand-in has no use for.
        return layer(args[0]) if layer.name in norms else layer(*args, **kwargs)

    copy = keras.models.clone_model(
        model, clone_function=clone_layer, call_function=call_layer
    )
    for source, layer in zip(model.layers, copy.layers, strict=True):
        if source.name in folded:
            norm = model.get_layer(folded[source.name])
            layer.set_weights(_absorb(source, norm))
        elif source.name not in norms:
            layer.set_weights(source.get_weights())
    classifier.finalize_normalization(copy)
    return copy


def _foldable(model: keras.Model) -> dict[str, str]:
    """Name of a convolution -> name of the batch norm that alone reads it."""
    readers = {}
    for layer in model.layers:
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        for tensor in inputs:
            readers.setdefault(id(tensor), []).append(layer)
    norm_of = {}
    for layer in model.layers:
        if not isinstance(layer, _CONVOLUTIONS) or layer.use_bias:
            continue
        reading = readers.get(id(layer.output), [])
        if len(reading) == 1 and isinstance(
            reading[0], keras.layers.BatchNormalization
        ):
            norm_of[layer.name] = reading[0].name
    return norm_of


def _absorb(convolution, norm) -> list[np.ndarray]:
    """Kernel and bias of a convolution with its batch norm in them."""
    (kernel,) = (w.astype(np.float64) for w in convolution.get_weights())
    gamma, beta, mean, variance = (
        w.astype(np.float64) for w in norm.get_weights()
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    bias = beta - mean * scale
    # A depthwise kernel has its channels before the multiplier, which is one.
    is_depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    kernel = kernel * (scale[:, np.newaxis] if is_depthwise else scale)
    return [kernel.astype(np.float32), bias.astype(np.float32)]
