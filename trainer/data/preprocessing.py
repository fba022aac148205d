"""Encoded bytes -> model input: the one place where pixels are made.

Training, evaluation and the exported model share these functions, so a served
model sees the pixels it was evaluated on.
"""

import tensorflow as tf

from trainer.data.images.image import (
    MAX_PIXELS,
    WINDOW_PERCENTILES,
    Window,
)

# More segments or chunks before EXIF are refused: each takes time to pass.
_MAX_SEGMENTS = 10_000


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


def _is_png(image_bytes: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(image_bytes, 0, 8) == b"\x89PNG\r\n\x1a\n"


def _numbers(
    data: tf.Tensor, start, count, num_bytes: int, is_little=False
) -> tf.Tensor:
    """Unsigned numbers from a byte on, int64 `[count]`.

    Fails if the data end before.
    """
    text = tf.strings.substr(data, start, count * num_bytes)
    parts = tf.reshape(tf.io.decode_raw(text, tf.uint8), [count, num_bytes])
    parts = tf.cast(tf.where(is_little, parts[:, ::-1], parts), tf.int64)
    powers = tf.constant([256**i for i in range(num_bytes)][::-1], tf.int64)
    return tf.reduce_sum(parts * powers, axis=1)


def _is_acceptable(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether the header is one of a JPEG or PNG of at most `MAX_PIXELS`.

    Read before decoding: some bytes can unfold into gigabytes. The decoder
    also knows GIF and BMP, which no record holds and no client may send, and
    makes other colours of the four of a CMYK JPEG than the readers.
    """
    is_jpeg = tf.strings.substr(image_bytes, 0, 3) == b"\xff\xd8\xff"

    def fits(size):
        # Each side is checked first: their product could overflow int64.
        return tf.reduce_all(size <= MAX_PIXELS) & (
            tf.reduce_prod(size) <= MAX_PIXELS
        )

    def accept_jpeg():
        shape = tf.io.extract_jpeg_shape(image_bytes, output_type=tf.int32)
        return (shape[2] < 4) & fits(tf.cast(shape[:2], tf.int64))

    return tf.case(
        [
            (
                _is_png(image_bytes),
                lambda: fits(_numbers(image_bytes, 16, 2, 4)),
            ),
            (is_jpeg, accept_jpeg),
        ],
        default=lambda: False,
    )


def _exif(image_bytes: tf.Tensor, is_png: tf.Tensor) -> tf.Tensor:
    """What `strip.find_exif` finds. Fails after `_MAX_SEGMENTS`."""

    def read_chunk(start):
        kind = tf.strings.substr(image_bytes, start + 4, 4)
        size = _numbers(image_bytes, start, 1, 4)[0]
        ends = (kind == b"eXIf") | (kind == b"IEND")
        return start + 12 + size, ends

    def read_segment(start):
        first, marker = tf.unstack(_numbers(image_bytes, start, 2, 1))
        # As `strip.starts_segment`.
        is_segment = (first == 0xFF) & (marker > 1) & (marker < 0xFF)
        is_segment &= marker // 8 != 0xD0 // 8
        size = _numbers(image_bytes, start + 2, 1, 2)[0]
        name = tf.strings.substr(image_bytes, start + 4, 6)
        is_exif = (marker == 0xE1) & (name == b"Exif\0\0")
        ends = is_segment & (is_exif | (marker == 0xDA))
        return start + tf.where(is_segment, 2 + size, 1), ends

    def step(_, start, ends):
        following, ends = tf.cond(
            is_png, lambda: read_chunk(start), lambda: read_segment(start)
        )
        return start, following, ends

    start = tf.where(is_png, tf.constant(8, tf.int64), 2)
    start, end, ends = tf.while_loop(
        lambda *state: tf.logical_not(state[2]),
        step,
        (start, start, False),
        maximum_iterations=_MAX_SEGMENTS,
    )
    with tf.control_dependencies([tf.debugging.Assert(ends, [start])]):
        name = tf.strings.substr(image_bytes, start + 4, 4)
    # A checksum ends a chunk; a segment's length and name stand before it.
    before = tf.where(is_png, tf.constant(8, tf.int64), 10)
    size = end - start - tf.where(is_png, tf.constant(12, tf.int64), 10)
    exif = tf.strings.substr(image_bytes, start + before, tf.maximum(size, 0))
    return tf.where((name == b"eXIf") | (name == b"Exif"), exif, b"")


def _orientation(exif: tf.Tensor) -> tf.Tensor:
    """What `strip.orientation` reads, int64."""
    num_bytes = tf.cast(tf.strings.length(exif), tf.int64)
    order = tf.strings.substr(exif, 0, 4)
    is_little = order == b"II*\0"
    padded = tf.strings.join([exif, b"\0\0\0\0"])

    def numbers(start, count, size):
        start = tf.minimum(tf.cast(start, tf.int64), num_bytes)
        return _numbers(padded, start, count, size, is_little)

    start = 2 + numbers(4, 1, 4)[0]
    count = tf.minimum(numbers(start - 2, 1, 2)[0], (num_bytes - start) // 12)
    # Of an entry's six words the first is the tag, then come its type, 3 for a
    # word, how many there are, and the value.
    words = numbers(start, 6 * tf.maximum(count, 0), 2)
    words = tf.reshape(words, [-1, 6])
    values = words[(words[:, 0] == 0x0112) & (words[:, 1] == 3)][:, 4]
    value = tf.concat([values, [1]], axis=0)[0]
    is_known = is_little | (order == b"MM\0*")
    return tf.where(is_known & (value >= 1) & (value <= 8), value, 1)


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """`image.turn` of `[height, width, channels]`."""
    flips = (orientation - 1) % 4

    def if_(condition, function, image):
        return tf.cond(condition, lambda: function(image), lambda: image)

    image = if_(orientation > 4, lambda i: tf.transpose(i, [1, 0, 2]), image)
    image = if_((flips == 1) | (flips == 2), lambda i: i[:, ::-1], image)
    return if_(flips >= 2, lambda i: i[::-1], image)


def _apply_window(values: tf.Tensor, window: Window | None) -> tf.Tensor:
    """`image.apply_window` of uint16 values, to the bit."""
    values = tf.cast(values, tf.int32)
    if window is None:
        counts = tf.math.bincount(tf.reshape(values, [-1]), minlength=2**16)
        num_below = tf.cumsum(tf.cast(counts, tf.int64))
        last = num_below[-1] - 1
        share = tf.constant(WINDOW_PERCENTILES, tf.float64) / 100
        place = tf.cast(last, tf.float64) * share
        rank = tf.cast(tf.floor(place), tf.int64)

        def ranked(ranks):
            found = tf.searchsorted(num_below, ranks, side="right")
            return tf.cast(found, tf.float64)

        first, second = ranked(rank), ranked(tf.minimum(rank + 1, last))
        part, step = place - tf.floor(place), second - first
        # NumPy's interpolation, whose rounding counts too.
        low, high = tf.unstack(
            tf.where(
                part < 0.5, first + step * part, second - step * (1 - part)
            )
        )
        ends = ranked(tf.stack([0, last]))
        low, high = tf.cond(
            high <= low, lambda: (ends[0], ends[1]), lambda: (low, high)
        )
        center, width = (low + high) / 2, high - low
    else:
        center, width = (tf.constant(value, tf.float64) for value in window)
    levels = tf.range(2**16, dtype=tf.float64)
    scaled = (levels - (center - width / 2)) * (255 / width)
    scaled = tf.where(width > 0, tf.clip_by_value(tf.round(scaled), 0, 255), 0)
    return tf.gather(tf.cast(scaled, tf.uint8), values)


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


def _rewrite(
    image_bytes: tf.Tensor, orientation: tf.Tensor, window: Window | None
) -> tf.Tensor:
    """An upright PNG of 8 bits of an image that is acceptable."""
    is_png = _is_png(image_bytes)
    depth, kind = tf.unstack(_numbers(image_bytes, 24, 2, 1))
    is_deep = is_png & (depth == 16)
    is_grey = kind & 2 == 0

    def decode_deep(channels):
        values = tf.io.decode_png(image_bytes, channels, tf.uint16)
        return _apply_window(values, window)

    image = tf.case(
        [
            (is_deep & is_grey, lambda: decode_deep(1)),
            (is_deep, lambda: decode_deep(3)),
            (is_png, lambda: tf.io.decode_png(image_bytes, 3)),
        ],
        # Only this method gives the pixels that Pillow gives.
        default=lambda: tf.io.decode_jpeg(
            image_bytes, dct_method="INTEGER_ACCURATE"
        ),
    )
    return tf.io.encode_png(_turn(image, orientation), compression=0)


def make_plain(
    image_bytes: tf.Tensor, window: Window | None = None
) -> tf.Tensor:
    """A JPEG or PNG, or the PNG that the readers make of what is not plain.

    An EXIF orientation and values of 16 bits are not: decoders pass over the
    one and cut the others.

    Args:
        image_bytes: string scalar, which may be broken.
        window: of values of 16 bits; None for that of `find_window`.

    Returns:
        String scalar; "" for a broken image, unless it is returned as it is.
    """
    is_png = _is_png(image_bytes)
    mark = tf.where(is_png, b"eXIf", b"Exif\0\0")
    # Of the ops that can tell, this takes least: 10 us for 100 KB.
    has_exif = tf.size(tf.strings.split(image_bytes, mark, maxsplit=1)) > 1
    start = tf.strings.join([tf.strings.substr(image_bytes, 0, 25), b"\0" * 25])
    is_deep = is_png & (tf.strings.substr(start, 24, 1) == b"\x10")
    upright = tf.constant(1, tf.int64)

    def rewrite(encoded, orientation):
        return tf.cond(
            _is_acceptable(encoded) & (orientation > 0),
            lambda: _rewrite(encoded, orientation, window),
            lambda: b"",
        )

    # What is behind `isolate` takes no time unless it is needed.
    orientation = tf.cond(
        has_exif,
        lambda: isolate(
            lambda encoded: _orientation(_exif(encoded, _is_png(encoded))),
            image_bytes,
            0 * upright,
        ),
        lambda: upright,
    )
    return tf.cond(
        is_deep | (orientation != 1),
        lambda: isolate(rewrite, (image_bytes, orientation), b""),
        lambda: image_bytes,
    )


def prepare_batch(
    image_bytes: tf.Tensor,
    image_size: int,
    channels: int,
    window: Window | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes a batch in which any image may be broken.

    Args:
        image_bytes: string `[batch]`, one JPEG or PNG each.
        image_size: height and width of the result, in pixels.
        channels: 1 or 3.
        window: see `make_plain`.

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

    def prepare(encoded):
        plain = make_plain(encoded, window)
        return isolate(decode, plain, (tf.zeros(shape), False))

    return tf.map_fn(
        prepare,
        image_bytes,
        fn_output_signature=(
            tf.TensorSpec(shape, tf.float32),
            tf.TensorSpec([], tf.bool),
        ),
    )
