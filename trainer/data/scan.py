"""The first pass: what every later decision needs to know of each image.

Runs in workers, one file at a time, without TensorFlow. Names and patient ids
end here: what comes out holds only a keyed hash of them.
"""

import dataclasses
import hashlib
import hmac
import re

import numpy as np
import PIL.Image

from trainer.data import readers, sources

# Near-duplicates are confirmed on thumbnails of this side, in pixels.
THUMBNAIL_SIZE = 32
# Stands in an image id where the name of a patient was.
PATIENT_MARK = "\0"
# Shorter identifiers are only taken out where they stand alone: a patient "7"
# must not cut into every number.
MIN_IDENTIFIER_LENGTH = 4


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How files are read, see `readers.read_images`."""

    window_center: float | None = None
    window_width: float | None = None
    slice_axis: int = 2

    def read(self, path: str) -> list[readers.Image]:
        return readers.read_images(
            path,
            window_center=self.window_center,
            window_width=self.window_width,
            slice_axis=self.slice_axis,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFacts:
    """One readable image.

    Attributes:
        image_id: relative path, with `PATIENT_MARK` for identifiers.
        suffix: which image of its file.
        class_name: its label.
        split: given by the user, or "".
        source_index: which of the sources it comes from.
        patient_key: keyed hash of the patient id, "" if unknown.
        sha256: of the decoded pixels.
        width: in pixels.
        height: in pixels.
        channels: 1 if grey, else 3.
        source_format: of the file.
        bit_depth: bits per channel in the file.
        quality: estimated JPEG quality, 0 for other formats.
        num_bytes: of the file, shared among its images.
        encoded_bytes: of the JPEG or PNG that stands for it.
        mean_brightness: in [0, 255].
        border_brightness: mean of the outermost pixels, in [0, 255].
        thumbnail: uint8 `[THUMBNAIL_SIZE, THUMBNAIL_SIZE]`, grey, as bytes.
    """

    image_id: str
    suffix: str
    class_name: str
    split: str
    source_index: int
    patient_key: str
    sha256: str
    width: int
    height: int
    channels: int
    source_format: str
    bit_depth: int
    quality: int
    num_bytes: int
    encoded_bytes: int
    mean_brightness: float
    border_brightness: float
    thumbnail: bytes


@dataclasses.dataclass(frozen=True)
class ScannedFile:
    """The images of one file, or why it has none.

    Attributes:
        image_id: of the file, with `PATIENT_MARK` for identifiers.
        images: what it holds.
        error: why it cannot be read, "" if it can.
    """

    image_id: str
    images: tuple[ImageFacts, ...] = ()
    error: str = ""


def scan_file(
    indexed_source: tuple[int, sources.Source],
    options: ReadOptions,
    key: bytes,
) -> ScannedFile:
    """Reads one file.

    Args:
        indexed_source: place in the list of sources, and the source.
        options: how to read it.
        key: of the hash of patient ids; a new one for every build, so that
            nobody can look an id up by hashing all possible ones.
    """
    index, source = indexed_source
    given = (source.patient_id,) if source.patient_id else ()
    try:
        images = options.read(source.path)
    except ValueError as error:
        return ScannedFile(
            hide_identifiers(source.image_id, given), (), str(error)
        )
    except OSError as error:
        # Its text would repeat the path.
        reason = error.strerror or type(error).__name__
        return ScannedFile(hide_identifiers(source.image_id, given), (), reason)
    facts = tuple(_describe(image, index, source, key) for image in images)
    image_id = facts[0].image_id if facts else source.image_id
    return ScannedFile(image_id, facts)


def hide_identifiers(image_id: str, identifiers: tuple[str, ...]) -> str:
    """Puts `PATIENT_MARK` where an identifier stands in an image id."""
    folder, slash, name = image_id.partition("/")
    for identifier in identifiers:
        pattern = re.escape(identifier)
        if len(identifier) < MIN_IDENTIFIER_LENGTH:
            pattern = f"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
        name = re.sub(pattern, PATIENT_MARK, name, flags=re.IGNORECASE)
    return folder + slash + name


def _describe(
    image: readers.Image, index: int, source: sources.Source, key: bytes
) -> ImageFacts:
    identifiers = tuple(
        dict.fromkeys(
            name for name in (source.patient_id, *image.identifiers) if name
        )
    )
    patient_key = ""
    if identifiers:
        patient = identifiers[0].encode("utf-8")
        patient_key = hmac.new(key, patient, hashlib.sha256).hexdigest()
    pixels = image.pixels
    border = np.concatenate(
        [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    )
    return ImageFacts(
        image_id=hide_identifiers(source.image_id, identifiers),
        suffix=image.suffix,
        class_name=source.class_name,
        split=source.split,
        source_index=index,
        patient_key=patient_key,
        sha256=readers.pixel_sha256(pixels),
        width=image.width,
        height=image.height,
        channels=1 if readers.is_grey(pixels) else 3,
        source_format=image.source_format,
        bit_depth=image.bit_depth,
        quality=image.quality,
        num_bytes=image.num_bytes,
        encoded_bytes=len(image.encoded),
        mean_brightness=round(float(pixels.mean()), 3),
        border_brightness=round(float(border.mean()), 3),
        thumbnail=make_thumbnail(pixels).tobytes(),
    )


def make_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Squeezes an image into a small grey square.

    Returns:
        uint8 `[THUMBNAIL_SIZE, THUMBNAIL_SIZE]`.
    """
    grey = PIL.Image.fromarray(pixels).convert("L")
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return np.asarray(grey.resize(size, PIL.Image.Resampling.BOX))
