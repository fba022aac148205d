"""The first pass: what every later decision needs to know of each image.

Runs in workers, one file at a time, without TensorFlow. Names and patient ids
end here: what comes out holds only a keyed hash of them.
"""

import dataclasses
import functools
import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import PIL.Image

from trainer.data.build import pseudonyms, sources, training_images
from trainer.data.images import readers
from trainer.data.images.image import (
    Image,
    NoImageError,
    is_grey,
    pixel_sha256,
)
from trainer.storage import paths

# Near-duplicates are confirmed on thumbnails of this side, in pixels.
THUMBNAIL_SIZE = 64
# Begins what images of one study, series or frame of reference have in common.
UID = "uid:"


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How files are read, see `readers.read_images`."""

    window_center: float | None = None
    window_width: float | None = None
    slice_axis: int = 2

    def __post_init__(self):
        readers.check_window(self.window_center, self.window_width)

    def decode(self, data: bytes) -> list[Image]:
        return readers.decode_images(
            data, self.window_center, self.window_width, self.slice_axis
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFacts:
    """One readable image.

    Attributes:
        image_id: relative path, with `pseudonyms.MARK` for identifiers.
        suffix: which image of its file.
        class_name: its label.
        split: given by the user, or "".
        source_index: which of the sources it comes from.
        patient_key: keyed hash of the patient id, "" if unknown.
        kin: keyed hashes of what else only images of one patient have in
            common, behind `sources.FOLDER` or `UID`.
        sha256: of the decoded pixels.
        file_sha256: of the whole file. Never to be written.
        kept_format: see `Image`, as for what is not listed here.
        channels: 1 if grey, else 3.
        mean_brightness: in [0, 255].
        border_brightness: mean of the outermost pixels, in [0, 255].
        training_bytes: of `training_images.Encoded`, grey and colour.
        group: patients and copies, see `groups`; "" until it is known.
    """

    image_id: str
    suffix: str
    class_name: str
    split: str
    source_index: int
    patient_key: str
    sha256: str
    file_sha256: str
    kept_format: str
    width: int
    height: int
    channels: int
    source_format: str
    bit_depth: int
    quality: int
    num_bytes: int
    mean_brightness: float
    border_brightness: float
    training_bytes: tuple[int, int]
    kin: tuple[str, ...] = ()
    group: str = ""

    def kin_of(self, *kinds: str) -> list[str]:
        return [key for key in self.kin if key.startswith(kinds)]


@dataclasses.dataclass(frozen=True)
class ScannedFile:
    """The images of one file, or why it has none.

    Attributes:
        image_id: what it is called if it has none.
        images: what it holds.
        thumbnails: of the images, see `make_thumbnail`, as bytes.
        encoded: of the images, as for training.
        error: why it cannot be read, "" if it can.
        is_no_image: whether that is since it shows something else.
    """

    image_id: str = ""
    images: tuple[ImageFacts, ...] = ()
    thumbnails: tuple[bytes, ...] = ()
    encoded: tuple[training_images.Encoded, ...] = ()
    error: str = ""
    is_no_image: bool = False


def scan_files(
    files: Sequence[sources.Source],
    options: ReadOptions,
    form: training_images.TrainingFormat,
    map_ordered: Callable[[Callable, Iterable], Iterator],
    thumbnails: BinaryIO,
    spool: training_images.Spool | None = None,
    report_progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[ImageFacts], list[ScannedFile]]:
    """Reads every file once.

    Args:
        files: what to read.
        options: how to read it.
        form: how training images are stored.
        map_ordered: calls a function on many items, see `parallel`.
        thumbnails: file that the thumbnails are written to, one after the
            other: of 100,000 images they take 400 MB, too much for memory.
        spool: takes the images as they are stored for training; None if they
            are encoded later.
        report_progress: called with the number of files just read.

    Returns:
        Facts of the images, in the order of the sources, as in `thumbnails` and
        `spool`; and the files that are no image.
    """
    scan_one = functools.partial(
        scan_file,
        options=options,
        form=form,
        # A new one every time, so that nobody can look an id up by hashing all
        # possible ones; nothing that is written depends on it.
        key=secrets.token_bytes(32),
        returns_encoded=spool is not None,
    )
    facts, unreadable = [], []
    for scanned in map_ordered(scan_one, enumerate(files)):
        facts.extend(scanned.images)
        thumbnails.write(b"".join(scanned.thumbnails))
        if spool is not None:
            spool.extend(scanned.encoded)
        if scanned.error:
            unreadable.append(scanned)
        report_progress(1)
    return facts, unreadable


def load_thumbnails(file: BinaryIO, num_images: int) -> np.ndarray:
    """What `scan_files` wrote, uint8 `[num_images, side, side]`."""
    file.flush()
    shape = (num_images, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return np.memmap(file, np.uint8, mode="r", shape=shape)


def scan_file(
    indexed_source: tuple[int, sources.Source],
    options: ReadOptions,
    form: training_images.TrainingFormat,
    key: bytes,
    returns_encoded: bool = True,
) -> ScannedFile:
    """Reads a source, which comes with its place among all.

    Patient ids are hashed with the key.
    """
    index, source = indexed_source
    data, is_no_image = None, False
    try:
        data = paths.read_bytes(source.path)
        images = options.decode(data)
        if not images:
            raise ValueError("it holds no image")
        encoded = tuple(
            training_images.encode_for_training(i.pixels, form) for i in images
        )
        return ScannedFile(
            images=tuple(
                _describe(image, index, source, data, versions, key)
                for image, versions in zip(images, encoded, strict=True)
            ),
            thumbnails=tuple(
                make_thumbnail(image.pixels).tobytes() for image in images
            ),
            encoded=encoded if returns_encoded else (),
        )
    except ValueError as raised:
        error, is_no_image = str(raised), isinstance(raised, NoImageError)
    # One bad file must not end a build. The text would repeat the path.
    except Exception as raised:
        error = getattr(raised, "strerror", None) or type(raised).__name__
    return ScannedFile(
        name_unread(source, index, data), error=error, is_no_image=is_no_image
    )


def name_unread(source: sources.Source, index: int, data: bytes | None) -> str:
    """What a file is called whose header cannot be compared with its name.

    Args:
        source: the file.
        index: its place among all.
        data: its content, None if it cannot be opened.
    """
    if not readers.medical_kind(data or b""):
        image_id = hide_identifiers(source, filter(None, [source.patient_id]))
        if pseudonyms.is_plain(image_id):
            return image_id
    return pseudonyms.name_by_content(source.class_name, index, data)


def name_file(indexed_source: tuple[int, sources.Source]) -> str:
    """What a file is called that has not been read, as `scan_file` takes it."""
    index, source = indexed_source
    try:
        return name_unread(source, index, paths.read_bytes(source.path))
    except OSError:
        return name_unread(source, index, None)


def hide_identifiers(source: sources.Source, identifiers: Iterable[str]) -> str:
    """The image id with a mark wherever an identifier stood in it."""
    texts = tuple(identifiers)
    return "/".join(
        # The label is no secret, and no name of a split is.
        part
        if unicodedata.normalize("NFC", part) == source.class_name
        or part.lower() in sources.SPLIT_SYNONYMS
        else pseudonyms.hide(part, texts)
        for part in source.image_id.split("/")
    )


def _describe(
    image: Image,
    index: int,
    source: sources.Source,
    data: bytes,
    versions: training_images.Encoded,
    key: bytes,
) -> ImageFacts:
    def hide(text: str) -> str:
        return hmac.new(key, text.encode("utf-8"), hashlib.sha256).hexdigest()

    patient_id = source.patient_id or image.patient_id
    kin = tuple(
        f"{kind}:{hide(name)[:16]}"
        for kind, name in (text.split(":", 1) for text in source.kin)
    )
    if not source.patient_id:
        kin += tuple(UID + hide(uid)[:16] for uid in image.uids)
    names = (source.patient_id, image.patient_id, *image.identifiers)
    identifiers = tuple(dict.fromkeys(name for name in names if name))
    pixels = image.pixels
    border = np.concatenate(
        [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    )
    return ImageFacts(
        image_id=hide_identifiers(source, identifiers),
        suffix=image.suffix,
        class_name=source.class_name,
        split=source.split,
        source_index=index,
        patient_key=hide(patient_id) if patient_id else "",
        sha256=pixel_sha256(pixels),
        file_sha256=hashlib.sha256(data).hexdigest(),
        kept_format=image.kept_format,
        width=image.width,
        height=image.height,
        channels=1 if is_grey(pixels) else 3,
        source_format=image.source_format,
        bit_depth=image.bit_depth,
        quality=image.quality,
        num_bytes=image.num_bytes,
        mean_brightness=round(float(pixels.mean()), 3),
        border_brightness=round(float(border.mean()), 3),
        training_bytes=(len(versions.grey), len(versions.colour)),
        kin=kin,
    )


def make_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Squeezes an image into a small grey square, uint8."""
    grey = PIL.Image.fromarray(pixels).convert("L")
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return np.asarray(grey.resize(size, PIL.Image.Resampling.BOX))
