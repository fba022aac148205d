"""Views of an image at test time: the logits of all of them are averaged."""

from collections.abc import Callable

import tensorflow as tf

# Whether mirrored, and steps down and to the right, of a view.
VIEWS = (
    (False, 0, 0),
    (True, 0, 0),
    (False, -1, 0),
    (False, 1, 0),
    (False, 0, -1),
    (False, 0, 1),
)
_STEPS_PER_SIDE = 28


def make_view(pixels: tf.Tensor, number: int) -> tf.Tensor:
    """A view of images; the first is the images themselves.

    Args:
        pixels: `[batch, size, size, channels]`.
        number: in `VIEWS`.

    Returns:
        The same shape and dtype. What a shift brings in is black.
    """
    is_mirrored, down, right = VIEWS[number]
    if is_mirrored:
        pixels = tf.reverse(pixels, [2])
    if down or right:
        size = pixels.shape[1]
        step = max(1, size // _STEPS_PER_SIDE)
        top, left = step - step * down, step - step * right
        pixels = tf.pad(pixels, [[0, 0], [step, step], [step, step], [0, 0]])
        pixels = pixels[:, top : top + size, left : left + size]
    return pixels


def averaged(model: Callable, num_views: int) -> Callable:
    """The mean of a model's outputs over the first views of its images.

    Args:
        model: function of pixels `[batch, size, size, channels]` and
            `training`.
        num_views: of `VIEWS`.

    Returns:
        Function as `model`.
    """
    if num_views == 1:
        return model

    def call(pixels: tf.Tensor, training: bool = False) -> tf.Tensor:
        views = [make_view(pixels, number) for number in range(num_views)]
        outputs = model(tf.concat(views, 0), training=training)
        return mean_over_views(outputs, num_views)

    return call


def mean_over_views(outputs: tf.Tensor, num_views: int) -> tf.Tensor:
    """`[views * batch, K]`, view after view -> `[batch, K]`."""
    parts = tf.reshape(outputs, [num_views, -1, outputs.shape[-1]])
    return tf.reduce_mean(parts, axis=0)
