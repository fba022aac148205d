"""Files and folders of images, streamed through a client.

    with client.Client("grpc://127.0.0.1:8500", "classifier") as asked:
        for answer in predict_files(asked, find_files(["scans/"])):
            print(answer.file, answer.prediction or answer.error)

A file becomes the pixels that it would have had in training: DICOM, NIfTI,
TIFF and the rest go through `trainer.data.images.readers`. Neither the files
nor the answers of a folder are ever all in memory.
"""

import collections
import concurrent.futures
import dataclasses
import os
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from serving import client
from trainer.data.build import sources
from trainer.data.images import readers
from trainer.progress import Progress

BATCH_SIZE = client.BATCH_SIZE
CONCURRENCY = 4


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one image, or of the images of a study.

    Attributes:
        file: its path, with the frame if the file holds several; of a study
            its folder, its volume, or the first file of a patient.
        prediction: None if the image could not be read.
        error: None, or why there is no valid prediction.
        source: path of the file; "" if it is `file`.
        patient: as a DICOM file has it, else "". Never to be written.
        num_images: that were answered.
    """

    file: str
    prediction: client.Prediction | None
    error: str | None
    source: str = ""
    patient: str = dataclasses.field(default="", repr=False)
    num_images: int = 1


def find_files(paths: Iterable[str]) -> list[str]:
    """Returns the paths, with folders replaced by the files below them.

    `build_records` finds the same files in a folder.

    Raises:
        ValueError: there are none, or a folder cannot be walked through.
    """
    files = []
    for path in paths:
        is_folder = os.path.isdir(path)
        files += sources.walk_files(path)[0] if is_folder else [path]
    if not files:
        raise ValueError(
            f"There must be at least one image. Received: {paths}."
        )
    return files


def predict_files(
    asked: client.Client,
    files: list[str],
    options: Mapping[str, Any] = types.MappingProxyType({}),
    *,
    batch_size: int = BATCH_SIZE,
    concurrency: int = CONCURRENCY,
    explain: bool = False,
    progress: bool = False,
) -> Iterator[Answer]:
    """Yields the answers for all images of all files, in order.

    Args:
        asked: the model.
        files: what to read. Files are read as their turn comes, and no more
            than are under way: a folder of any size fits into memory.
        options: of `readers.read_images`, as for the training images.
        batch_size: files per request.
        concurrency: requests under way at a time.
        explain: whether to ask for overlays.
        progress: whether to show a bar on a terminal.

    Raises:
        ServerError: the server cannot answer.
    """
    under_way: collections.deque = collections.deque()
    executor = concurrent.futures.ThreadPoolExecutor(concurrency)
    with Progress(
        len(files), "asking", "files", is_shown=progress and len(files) > 1
    ) as bar:
        try:
            for start in range(0, len(files), batch_size):
                batch = files[start : start + batch_size]
                under_way.append(
                    executor.submit(
                        _predict_batch, asked, batch, options, explain
                    )
                )
                # One more than are under way, so that no thread waits for a
                # consumer that is busy with an answer.
                if len(under_way) > concurrency + 1:
                    yield from under_way.popleft().result()
                    bar.update(batch_size)
            while under_way:
                yield from under_way.popleft().result()
                bar.update(batch_size)
        finally:
            # When one batch fails, the others would fail in the same way.
            executor.shutdown(wait=False, cancel_futures=True)


def _predict_batch(
    asked: client.Client, files: list[str], options: Mapping, explain: bool
) -> list[Answer]:
    answers: list[Answer] = []
    waiting: list[tuple[int, bytes]] = []
    for file in files:
        for answer, encoded in read(file, options):
            if answer.error is None:
                waiting.append((len(answers), encoded))
            answers.append(answer)
    ask = asked.explain if explain else asked.predict
    predictions = ask([encoded for _, encoded in waiting])
    for (index, _), prediction in zip(waiting, predictions, strict=True):
        error = None if prediction.valid else "the server cannot decode it"
        answers[index] = dataclasses.replace(
            answers[index], prediction=prediction, error=error
        )
    return answers


def read(file: str, options: Mapping[str, Any]) -> list[tuple[Answer, bytes]]:
    """Returns what is known of each image in a file, and its bytes to send."""
    try:
        images = readers.read_images(file, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [(Answer(file, None, " ".join(reason.split())), b"")]
    return [
        (
            Answer(
                file + image.suffix,
                None,
                None,
                file if image.suffix else "",
                image.patient_id,
            ),
            image.encoded,
        )
        for image in images
    ]
