"""Training images as they are stored: scaled down, JPEG, grey where possible.

They are made while a file is open for its first reading, before anybody knows
which split it will fall into, and wait in a file on disk: a second decoding
would cost more than those that are made in vain.
"""

import dataclasses
import io
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
import PIL.Image

from trainer.data.images.image import is_grey

JPEG_QUALITY = 95
_MAX_SIDE = 65_500  # that libjpeg writes


@dataclasses.dataclass(frozen=True)
class TrainingFormat:
    """How training images are stored.

    Attributes:
        stored_size: short side in pixels; smaller images are not enlarged.
        channels: 1 or 3; 0 while it depends on images not yet read.
    """

    stored_size: int
    channels: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """JPEG bytes of one image, for sets of one and of three channels.

    The two are the same bytes where the pixels have one channel: decoders
    make three of it. A version that nobody can need is empty.
    """

    grey: bytes
    colour: bytes

    def for_channels(self, channels: int) -> bytes:
        return self.grey if channels == 1 else self.colour


def training_shape(
    height: int, width: int, stored_size: int
) -> tuple[int, int]:
    """Height and width of the stored image, in pixels."""
    short_side = min(height, width)
    if short_side <= stored_size:
        return height, width
    scale = stored_size / short_side
    return max(1, round(height * scale)), max(1, round(width * scale))


def encode_for_training(pixels: np.ndarray, form: TrainingFormat) -> Encoded:
    """Scales uint8 pixels down and encodes them.

    Without a number of channels, an image that counts as grey though its
    channels differ is encoded for both.
    """
    image = PIL.Image.fromarray(pixels)
    if pixels.ndim == 2:
        grey = _encode(image, form.stored_size)
        return Encoded(grey, grey)
    wants_grey = form.channels == 1 or (form.channels == 0 and is_grey(pixels))
    return Encoded(
        _encode(image.convert("L"), form.stored_size) if wants_grey else b"",
        _encode(image, form.stored_size) if form.channels != 1 else b"",
    )


def _encode(image: PIL.Image.Image, stored_size: int) -> bytes:
    height, width = training_shape(image.height, image.width, stored_size)
    if max(height, width) > _MAX_SIDE:
        raise ValueError(
            f"as it is stored, {width} x {height} pixels, it is longer than "
            f"the {_MAX_SIDE:,} pixels of a JPEG; cut it into tiles"
        )
    if (width, height) != image.size:
        # Pillow widens the filter when it scales down: no aliasing.
        image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


class Spool:
    """Encoded training images in a temporary file, in the order of writing."""

    def __init__(self, file: BinaryIO):
        """Takes an empty file that is open for reading and writing."""
        self._file = file
        self._end = 0
        # Offset and sizes; equal versions are kept once.
        self._places: list[tuple[int, int, int]] = []

    def extend(self, images: Iterable[Encoded]) -> None:
        for image in images:
            same = image.grey == image.colour
            data = image.grey if same else image.grey + image.colour
            self._file.write(data)
            self._places.append(
                (self._end, len(image.grey), -1 if same else len(image.colour))
            )
            self._end += len(data)

    def read(self, index: int, channels: int) -> bytes:
        """JPEG bytes of an image for a set of so many channels."""
        start, grey_size, colour_size = self._places[index]
        size = grey_size
        if channels != 1 and colour_size >= 0:
            start, size = start + grey_size, colour_size
        self._file.seek(start)
        return self._file.read(size)
