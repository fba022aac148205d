"""Encoded bytes -> model input: the one place where pixels are made.

Training, evaluation and the exported model share these functions, so a served
model sees the pixels it was evaluated on.
"""

import tensorflow as tf

from trainer.data.images.image import MAX_PIXELS


def decode_image(image_bytes: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes one JPEG or PNG to uint8 `[height, width, channels]`.

    Colour is converted to luminance for one channel.
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

    Returns:
        float32 `[image_size, image_size, channels]`, in [0, 255].
    """
    return resize_image(decode_image(image_bytes, channels), image_size)


def _png_size(image_bytes: tf.Tensor) -> tf.Tensor:
    """Height and width that a PNG's header states, int64 `[2]`.

    They stand in bytes 16 to 24, big-endian, width first. `substr` fails on
    fewer bytes.
    """
    header = tf.strings.substr(image_bytes, 16, 8)
    parts = tf.reshape(tf.io.decode_raw(header, tf.uint8), [2, 4])
    powers = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
    return tf.reduce_sum(tf.cast(parts, tf.int64) * powers, axis=1)[::-1]


def _jpeg_size(image_bytes: tf.Tensor) -> tf.Tensor:
    """Height and width that a JPEG's header states, int64 `[2]`."""
    shape = tf.io.extract_jpeg_shape(image_bytes, output_type=tf.int32)
    return tf.cast(shape[:2], tf.int64)


def _is_acceptable(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether the header is one of a JPEG or PNG of at most `MAX_PIXELS`.

    Read before decoding: some bytes can unfold into gigabytes. The decoder
    also knows GIF and BMP, which no record holds and no client may send.
    """
    is_png = tf.strings.substr(image_bytes, 0, 8) == b"\x89PNG\r\n\x1a\n"
    is_jpeg = tf.strings.substr(image_bytes, 0, 3) == b"\xff\xd8\xff"

    def fits(size):
        # Each side is checked first: their product could overflow int64.
        return tf.reduce_all(size <= MAX_PIXELS) & (
            tf.reduce_prod(size) <= MAX_PIXELS
        )

    return tf.case(
        [
            (is_png, lambda: fits(_png_size(image_bytes))),
            (is_jpeg, lambda: fits(_jpeg_size(image_bytes))),
        ],
        default=lambda: False,
    )


def isolate(function, element: tf.Tensor, blank):
    """`function(element)`, or `blank` if any op in it fails.

    TF Serving merges strangers' requests into one batch, so an op that fails
    would fail them all. `ignore_errors` on a data set of one element drops what
    fails, and the blank behind it, a tensor or a tuple like the result, takes
    its place.
    """
    return (
        tf.data.Dataset.from_tensors(element)
        .map(function)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(blank))
        .take(1)
        .get_single_element()
    )


def prepare_batch(
    image_bytes: tf.Tensor, image_size: int, channels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes a batch in which any image may be broken.

    Args:
        image_bytes: string `[batch]`, one JPEG or PNG each.
        image_size: height and width of the result, in pixels.
        channels: 1 or 3.

    Returns:
        images: float32 `[batch, image_size, image_size, channels]`, in [0,
            255]; zeros where an image could not be decoded.
        valid: bool `[batch]`, whether it could.
    """
    shape = [image_size, image_size, channels]

    def decode(encoded):
        acceptable = _is_acceptable(encoded)
        image = tf.cond(
            acceptable,
            lambda: prepare_image(encoded, image_size, channels),
            lambda: tf.zeros(shape),
        )
        return tf.ensure_shape(image, shape), acceptable

    return tf.map_fn(
        lambda encoded: isolate(decode, encoded, (tf.zeros(shape), False)),
        image_bytes,
        fn_output_signature=(
            tf.TensorSpec(shape, tf.float32),
            tf.TensorSpec([], tf.bool),
        ),
    )
