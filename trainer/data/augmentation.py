"""Random geometry and intensity, a pure function of image and seed."""

import dataclasses
import math

import tensorflow as tf

from trainer.data import preprocessing


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges that augmentation draws from, uniformly.

    Attributes:
        rotation_degrees: rotation by up to this angle either way.
        shift_fraction: shift by up to this fraction of height and of width.
        zoom_fraction: scale between 1 - fraction and 1 + fraction.
        horizontal_flip: mirror left and right in half of the cases.
        vertical_flip: mirror top and bottom in half of the cases.
        brightness: add up to this fraction of the full range either way.
        contrast: scale about mid-grey by 1 - contrast to 1 + contrast.
    """

    rotation_degrees: float = 15.0
    shift_fraction: float = 0.08
    zoom_fraction: float = 0.12
    horizontal_flip: bool = True
    vertical_flip: bool = False
    brightness: float = 0.1
    contrast: float = 0.1


def _projective_row(
    draws: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    image_size: int,
    augmentation: Augmentation,
) -> tf.Tensor:
    """The transform from output to input pixels, float32 `[8]`.

    Rotation, zoom, flip, shift and the resize are one affine map, so the
    image is interpolated once. With centred coordinates, output pixel (x, y)
    reads input pixel A (x, y) + b, where A = R(angle) diag(w, h) / size / zoom.
    """
    a = augmentation
    angle = draws[0] * a.rotation_degrees * math.pi / 180.0
    zoom = 1.0 + draws[1] * a.zoom_fraction
    flip_x = tf.where((draws[2] < 0.0) & a.horizontal_flip, -1.0, 1.0)
    flip_y = tf.where((draws[3] < 0.0) & a.vertical_flip, -1.0, 1.0)
    scale_x = flip_x * width / image_size / zoom
    scale_y = flip_y * height / image_size / zoom
    cos, sin = tf.cos(angle), tf.sin(angle)
    a0, a1 = cos * scale_x, -sin * scale_y
    b0, b1 = sin * scale_x, cos * scale_y
    center = (image_size - 1) / 2
    shift_x = (width - 1) / 2 + draws[4] * a.shift_fraction * width
    shift_y = (height - 1) / 2 + draws[5] * a.shift_fraction * height
    return tf.stack(
        [
            a0,
            a1,
            shift_x - (a0 + a1) * center,
            b0,
            b1,
            shift_y - (b0 + b1) * center,
            0.0,
            0.0,
        ]
    )


def augment_image(
    image: tf.Tensor,
    seed: tf.Tensor,
    image_size: int,
    augmentation: Augmentation,
) -> tf.Tensor:
    """Draws one random view of an image at the model's input size.

    Args:
        image: uint8 `[height, width, channels]`.
        seed: int64 `[2]`; the same seed gives the same view on any device.
        image_size: height and width of the result, in pixels.
        augmentation: ranges to draw from.

    Returns:
        float32 `[image_size, image_size, channels]`, in [0, 255].
    """
    channels = image.shape[-1]
    # The affine map interpolates between four neighbours, so an image much
    # larger than its result would alias; evaluation's resize would not.
    shape = tf.shape(image)
    image = tf.cond(
        tf.reduce_min(shape[:2]) > int(1.5 * image_size),
        lambda: preprocessing.resize_image(image, image_size),
        lambda: tf.cast(image, tf.float32),
    )
    shape = tf.cast(tf.shape(image), tf.float32)
    draws = tf.random.stateless_uniform([8], seed, minval=-1.0, maxval=1.0)
    transform = _projective_row(
        draws, shape[0], shape[1], image_size, augmentation
    )
    image = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=transform[tf.newaxis],
        output_shape=tf.constant([image_size, image_size]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]
    image.set_shape([image_size, image_size, channels])
    gain = 1.0 + draws[6] * augmentation.contrast
    offset = draws[7] * augmentation.brightness * 255.0
    return tf.clip_by_value((image - 127.5) * gain + 127.5 + offset, 0.0, 255.0)
