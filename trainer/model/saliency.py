"""Grad-CAM: where in an image the evidence for its class lies.

Selvaraju et al., 2017, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", https://arxiv.org/abs/1610.02391.

The maps are made from the backbone's last feature map (7 x 7 at 224 pixels),
so they show regions, not outlines.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from trainer.data import preprocessing
from trainer.model import classifier

FEATURE_MAP = "top_activation"  # the last layer before pooling
# An overlay is looked at on a screen: larger images are scaled down.
MAX_OVERLAY_SIDE = 512
# The hottest pixel's share of colour; the image shows through.
_OPACITY = 0.6
_BATCH_SIZE = 32


def head_model(model: keras.Model) -> keras.Model:
    """The part of a classifier behind the feature map; shares its weights.

    Returns:
        Model: float32 `[batch, h, w, features]` -> logits `[batch, K]`.
    """
    shape = model.get_layer(FEATURE_MAP).output.shape[1:]
    inputs = keras.Input(shape, name="feature_map")
    names = [layer.name for layer in model.layers]
    x = inputs
    for layer in model.layers[names.index(classifier.FEATURES) :]:
        x = layer(x)
    return keras.Model(inputs, x)


def grad_cam(
    head, feature_map: tf.Tensor, class_index: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Heat maps of one class per image, and the logits.

    Each channel of the feature map is weighed by the mean gradient of the
    class's logit in it. The single logit z of two classes speaks for label 1,
    and -z for label 0.

    Args:
        head: from `head_model`.
        feature_map: float32 `[batch, h, w, features]`.
        class_index: int32 `[batch]`, the classes to explain; None for the most
            probable ones.

    Returns:
        heat: float32 `[batch, h, w]` in [0, 1]: each image's hottest place has
            1; all 0 where nothing speaks for the class.
        logits: float32 `[batch, K]`.
    """
    with tf.GradientTape() as tape:
        tape.watch(feature_map)
        logits = head(feature_map, training=False)
        by_class = logits
        if logits.shape[-1] == 1:
            by_class = tf.concat([-logits, logits], axis=-1)
        if class_index is None:
            class_index = tf.argmax(by_class, -1, output_type=tf.int32)
        score = tf.gather(by_class, class_index, batch_dims=1)
    gradient = tape.gradient(score, feature_map)
    weights = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * feature_map, axis=-1))
    hottest = tf.reduce_max(heat, axis=[1, 2], keepdims=True)
    return tf.math.divide_no_nan(heat, hottest), logits


def heat_maps(
    model: keras.Model,
    pixels: np.ndarray,
    class_index: np.ndarray | None = None,
) -> np.ndarray:
    """Grad-CAM of images that a classifier is given.

    Args:
        model: from `classifier.build_classifier`, or loaded.
        pixels: float32 `[images, image_size, image_size, channels]`, in
            [0, 255].
        class_index: int `[images]`, the classes to explain; None for the most
            probable ones.

    Returns:
        float32 `[images, h, w]` in [0, 1].
    """
    backbone = keras.Model(model.input, model.get_layer(FEATURE_MAP).output)
    head = head_model(model)
    maps = []
    for start in range(0, len(pixels), _BATCH_SIZE):
        chosen = slice(start, start + _BATCH_SIZE)
        classes = None
        if class_index is not None:
            classes = tf.constant(class_index[chosen], tf.int32)
        features = backbone(tf.constant(pixels[chosen]), training=False)
        maps.append(grad_cam(head, features, classes)[0].numpy())
    return np.concatenate(maps)


@functools.cache
def _colours() -> np.ndarray:
    """A colour map of even lightness steps, float32 `[256, 3]`, 0 to 255."""
    # Imported here: drawing is not what most who import this module do.
    from matplotlib import colormaps

    # Its palest colours would look like bright tissue.
    places = np.linspace(0, 0.85, 256)
    return (255 * colormaps["inferno"](places)[:, :3]).astype("float32")


def draw_overlay(image: tf.Tensor, heat: tf.Tensor) -> tf.Tensor:
    """Lays a heat map over the image it explains.

    Args:
        image: uint8 or float32 `[height, width, 3]`, in [0, 255].
        heat: float32 `[h, w]`, in [0, 1].

    Returns:
        uint8 `[height, width, 3]`; where there is no heat, the image.
    """
    heat = tf.image.resize(
        heat[..., tf.newaxis], tf.shape(image)[:2], "bicubic"
    )
    heat = tf.clip_by_value(heat, 0, 1)
    colours = tf.constant(_colours())
    colour = tf.gather(colours, tf.cast(heat[..., 0] * 255, tf.int32))
    opacity = _OPACITY * heat
    mixed = (1 - opacity) * tf.cast(image, tf.float32) + opacity * colour
    return tf.cast(tf.round(mixed), tf.uint8)


def overlay_png(image_bytes: tf.Tensor, heat: tf.Tensor) -> tf.Tensor:
    """An encoded image -> PNG of it under its heat map, in its own shape.

    Args:
        image_bytes: string scalar, one JPEG or PNG that decodes.
        heat: float32 `[h, w]`, in [0, 1].

    Returns:
        String scalar: a PNG of the image's aspect, at most `MAX_OVERLAY_SIDE`
        on its longer side.
    """
    image = preprocessing.decode_image(image_bytes, channels=3)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.minimum(1.0, MAX_OVERLAY_SIDE / tf.reduce_max(size))
    size = tf.maximum(1, tf.cast(tf.round(scale * size), tf.int32))
    image = tf.image.resize(image, size, antialias=True)
    return tf.io.encode_png(draw_overlay(image, heat))


def explain_images(
    model: keras.Model,
    images: list[bytes],
    class_index: np.ndarray | None = None,
) -> list[bytes]:
    """Overlays of encoded images: the pictures of the `explain` signature.

    Args:
        model: from `classifier.build_classifier`, or loaded.
        images: JPEG or PNG each, which decode.
        class_index: int `[images]`, the classes to explain; None for the most
            probable ones.

    Returns:
        A PNG per image.
    """
    _, image_size, _, channels = model.input.shape
    pixels = np.stack(
        [
            preprocessing.prepare_image(image, image_size, channels)
            for image in images
        ]
    )
    heat = heat_maps(model, pixels, class_index)
    return [
        overlay_png(tf.constant(image), tf.constant(one)).numpy()
        for image, one in zip(images, heat, strict=True)
    ]
