"""Encoded bytes -> model input: the one place where pixels are made.

Training, evaluation and the exported model share these functions, so a served
model sees the pixels it was evaluated on.
"""

import tensorflow as tf

# Refused before decoding: a PNG of 140 KB can unfold into 12,000 x 12,000
# pixels, 432 MB. Whole-slide images do not come through a JSON request.
MAX_PIXELS = 64_000_000


def decode_image(image_bytes: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes one JPEG or PNG.

    Args:
        image_bytes: string scalar, one encoded image.
        channels: 1 or 3; colour is converted to luminance for 1.

    Returns:
        uint8 `[height, width, channels]`.
    """
    image = tf.io.decode_image(
        image_bytes, channels=channels, expand_animations=False
    )
    image.set_shape([None, None, channels])
    return image


def resize_image(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes to a square. The whole image is kept; its aspect is not.

    Args:
        image: uint8 or float32 `[height, width, channels]`, in [0, 255].
        image_size: height and width of the result, in pixels.

    Returns:
        float32 `[image_size, image_size, channels]`, in [0, 255].
    """
    return tf.image.resize(image, [image_size, image_size], antialias=True)


def prepare_image(
    image_bytes: tf.Tensor, image_size: int, channels: int
) -> tf.Tensor:
    """Decodes and resizes one image as evaluation and serving do.

    Args:
        image_bytes: string scalar, one JPEG or PNG.
        image_size: height and width of the result, in pixels.
        channels: 1 or 3.

    Returns:
        float32 `[image_size, image_size, channels]`, in [0, 255].
    """
    return resize_image(decode_image(image_bytes, channels), image_size)


def _has_few_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a PNG's header stays under `MAX_PIXELS`; True for a JPEG.

    JPEG decoders allocate by scan line and TensorFlow refuses large ones; a
    PNG's size stands in bytes 16 to 24, big-endian.
    """
    is_png = tf.strings.substr(image_bytes, 0, 4) == b"\x89PNG"
    is_complete = tf.strings.length(image_bytes) >= 24
    # A constant header for anything else, so that `substr` stays in range.
    header = tf.where(
        is_png & is_complete,
        tf.strings.substr(
            tf.strings.join([image_bytes, tf.constant(b"\0" * 24)]), 16, 8
        ),
        tf.constant(b"\0" * 8),
    )
    parts = tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int64)
    powers = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
    width = tf.reduce_sum(parts[:4] * powers)
    height = tf.reduce_sum(parts[4:] * powers)
    # Each side is checked first: their product could overflow int64.
    fits = (
        (width <= MAX_PIXELS)
        & (height <= MAX_PIXELS)
        & (width * height <= MAX_PIXELS)
    )
    return tf.logical_not(is_png) | fits


def prepare_batch(
    image_bytes: tf.Tensor, image_size: int, channels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes a batch in which any image may be broken.

    TF Serving merges strangers' requests into one batch, so an op that fails
    would fail them all. `ignore_errors` on a data set of one image drops what
    does not decode, and the blank image behind it takes its place.

    Args:
        image_bytes: string `[batch]`, one JPEG or PNG each.
        image_size: height and width of the result, in pixels.
        channels: 1 or 3.

    Returns:
        images: float32 `[batch, image_size, image_size, channels]`, in
            [0, 255]; zeros where an image could not be decoded.
        valid: bool `[batch]`, whether it could.
    """
    shape = [image_size, image_size, channels]
    blank = tf.data.Dataset.from_tensors((tf.zeros(shape), False))

    def prepare(one):
        # The filter comes before the decoder: a bomb is never unfolded.
        decoded = (
            tf.data.Dataset.from_tensors(one)
            .filter(_has_few_pixels)
            .map(lambda b: (prepare_image(b, image_size, channels), True))
            .ignore_errors()
        )
        image, valid = decoded.concatenate(blank).take(1).get_single_element()
        image.set_shape(shape)
        return image, valid

    return tf.map_fn(
        prepare,
        image_bytes,
        fn_output_signature=(
            tf.TensorSpec(shape, tf.float32),
            tf.TensorSpec([], tf.bool),
        ),
    )
