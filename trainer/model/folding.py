"""A classifier as few and cheap ops, for inference.

Batch norm is folded into the convolutions before it, padding into those after
it, and what normalizes the input becomes one. A bias is then added by the op
that oneDNN fuses with a convolution and its swish.
"""

import itertools

import keras
import numpy as np
import tensorflow as tf

from trainer.model import classifier

# What normalizes an input, each pixel by itself.
_NORMALIZING = (
    keras.layers.Concatenate,
    keras.layers.Normalization,
    keras.layers.Rescaling,
)


def _swish(x):
    # What `tf.nn.silu` makes of it is not fused.
    return x * tf.sigmoid(x)


class _Convolution(keras.layers.Conv2D):
    """Conv2D; of a single pixel it is a product, which takes half the time."""

    def call(self, inputs):
        if inputs.shape[1:3] == self.kernel_size == (1, 1):
            x = tf.reshape(inputs, [-1, inputs.shape[-1]])
            x = tf.matmul(x, tf.squeeze(self.kernel, [0, 1]))
            x = self.activation(tf.nn.bias_add(x, self.bias))
            return tf.reshape(x, [-1, 1, 1, self.filters])
        x = tf.nn.conv2d(
            inputs, self.kernel, self.strides, self.padding.upper()
        )
        return self.activation(tf.nn.bias_add(x, self.bias))


class _DepthwiseConvolution(keras.layers.DepthwiseConv2D):
    def call(self, inputs):
        x = tf.nn.depthwise_conv2d(
            inputs, self.kernel, [1, *self.strides, 1], self.padding.upper()
        )
        return self.activation(tf.nn.bias_add(x, self.bias))


class _Reshape(keras.layers.Reshape):
    """Reshape; Keras asks for the size of the batch, by three ops."""

    def call(self, inputs):
        return tf.reshape(inputs, [-1, *self.target_shape])


_FUSED = {
    keras.layers.Conv2D: _Convolution,
    keras.layers.DepthwiseConv2D: _DepthwiseConvolution,
}


def fold(model: keras.Model) -> keras.Model:
    """A copy for inference, of fewer ops.

    At inference batch norm is `scale * x + shift` per channel, with constants
    that a convolution's kernel and bias can absorb.

    Args:
        model: flat, of Keras' own layers; batch norm that follows a
            convolution without bias is folded, other is kept. Padding before a
            convolution must be what "same" does, as it is in EfficientNet.

    Returns:
        Model with the same layer names and, to rounding, the same outputs at
        inference.
    """
    norms, padded = _foldable(model)
    names = [
        layer.name
        for layer in itertools.takewhile(
            lambda layer: isinstance(layer, _NORMALIZING), model.layers[1:]
        )
    ]
    first, last = (names[0], names[-1]) if names else ("", "")
    dropped = {*norms.values(), *padded.values(), *names} - {first}

    def clone_layer(layer):
        config = layer.get_config()
        if layer.name in dropped:
            # Not of the global dtype policy, which training may have mixed.
            return keras.layers.Identity(
                name=layer.name, dtype=layer.dtype_policy
            )
        if layer.name == first:
            channels = model.get_layer(last).output.shape[-1]
            return _Convolution(
                channels, 1, name=first, dtype=layer.dtype_policy
            )
        if config.get("activation") == "silu":
            config["activation"] = _swish
        if layer.name in padded:
            config["padding"] = "same"
        if layer.name in norms:
            config["use_bias"] = True
        if isinstance(layer, keras.layers.Reshape):
            return _Reshape.from_config(config)
        fused = config.get("use_bias") and _FUSED.get(type(layer))
        return (fused or layer.__class__).from_config(config)

    def call_layer(layer, *args, **kwargs):
        # A grey image comes three times. Batch norm was called with a mask,
        # which its stand-in has no use for.
        if layer.name == first or layer.name in dropped:
            return layer(keras.tree.flatten(args[0])[0])
        return layer(*args, **kwargs)

    copy = keras.models.clone_model(
        model, clone_function=clone_layer, call_function=call_layer
    )
    for source, layer in zip(model.layers, copy.layers, strict=True):
        if source.name in norms:
            norm = model.get_layer(norms[source.name])
            layer.set_weights(_absorb(source, norm))
        elif source.name == first:
            normalize = keras.Model(model.input, model.get_layer(last).output)
            layer.set_weights(_as_convolution(normalize))
        elif source.name not in dropped:
            layer.set_weights(source.get_weights())
    classifier.finalize_normalization(copy)
    return copy


def _foldable(model: keras.Model) -> tuple[dict[str, str], dict[str, str]]:
    """Name of a convolution -> that of the batch norm that alone reads it, and
    -> that of the padding that it alone reads.
    """
    readers = {}
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            readers.setdefault(id(tensor), []).append(layer)
    norms, padded = {}, {}
    for layer in model.layers:
        reader, *others = readers.get(id(layer.output), [None])
        if others:
            continue
        if isinstance(reader, keras.layers.BatchNormalization):
            if isinstance(layer, tuple(_FUSED)) and not layer.use_bias:
                norms[layer.name] = reader.name
        elif isinstance(layer, keras.layers.ZeroPadding2D):
            padded[reader.name] = layer.name
    return norms, padded


def _as_convolution(normalize: keras.Model) -> list[np.ndarray]:
    """Kernel and bias of a function of each pixel, by what it makes of some."""
    _, *shape, channels = normalize.input.shape
    pixels = np.zeros([1 + channels, *shape, channels], np.float32)
    pixels[1:, 0, 0] = 255 * np.eye(channels)
    bias, *others = np.array(normalize(pixels), np.float64)[:, 0, 0]
    kernel = (np.stack(others) - bias) / 255
    return [kernel[np.newaxis, np.newaxis], bias]


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
