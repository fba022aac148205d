r"""Asks a server what is on images.

    python -m serving.predict --target=grpc://127.0.0.1:8500 \
        --model_name=brain_mri scan.png series.dcm folder/

Prints a table, or with `--json` or `--csv` something for machines. Images of
every format that Lightbox trains on are sent as the pixels that it trains on.
One bad image does not keep the others from being answered, but the exit code
is 1.
"""

import concurrent.futures
import csv
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator

import tqdm
from absl import app, flags

from serving import client
from trainer.data import readers

FLAGS = flags.FLAGS
COLUMNS = ("file", "label", "score", "decision", "probabilities")


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How files become pixels; must be as it was for the training images.

    Attributes:
        window_center: see `readers.read_images`.
        window_width: likewise.
        slice_axis: likewise.
    """

    window_center: float | None = None
    window_width: float | None = None
    slice_axis: int = 2


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one image.

    Attributes:
        file: its path, with the frame if the file holds several.
        prediction: None if the image could not be read.
        error: None, or why there is no valid prediction.
    """

    file: str
    prediction: client.Prediction | None
    error: str | None


def define_flags() -> None:
    """Defines the flags; only the command calls it."""
    flags.DEFINE_string(
        "target",
        None,
        "grpc://HOST:PORT or http://HOST:PORT; grpcs or https for TLS.",
        required=True,
    )
    flags.DEFINE_string(
        "model_name", None, "What the server calls the model.", required=True
    )
    flags.DEFINE_integer(
        "model_version", None, "Version to ask; default: the newest."
    )
    flags.DEFINE_float(
        "timeout_s",
        30.0,
        "Seconds to wait for each request, retries included.",
        lower_bound=0.001,
    )
    flags.DEFINE_integer(
        "batch_size", client.BATCH_SIZE, "Images per request.", lower_bound=1
    )
    flags.DEFINE_integer(
        "concurrency", 4, "Requests under way at a time.", lower_bound=1
    )
    flags.DEFINE_string(
        "ca_file", None, "PEM file of the authority to trust with TLS."
    )
    flags.DEFINE_string(
        "token_file", None, "File with a token to send as authorization."
    )
    flags.DEFINE_float(
        "window_center",
        None,
        "Middle of the window for values of more than 8 bits, in the units of "
        "the file; as for the training images.",
    )
    flags.DEFINE_float("window_width", None, "Width of that window.")
    flags.DEFINE_integer(
        "slice_axis",
        2,
        "Axis that NIfTI volumes are cut along; as for the training images.",
        lower_bound=0,
        upper_bound=2,
    )
    flags.DEFINE_bool("json", False, "Print one JSON document.")
    flags.DEFINE_bool("csv", False, "Print CSV.")


def find_files(paths: Iterable[str]) -> list[str]:
    """Returns the paths, with folders replaced by the files below them."""
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        for folder, subfolders, names in os.walk(path):
            subfolders.sort()
            files += [
                os.path.join(folder, name)
                for name in sorted(names)
                if not name.startswith(".")
            ]
    return files


def predict_files(
    asked: client.Client,
    files: list[str],
    options: ReadOptions,
    batch_size: int,
    concurrency: int,
) -> Iterator[Answer]:
    """Yields the answers for all images of all files, in order.

    Args:
        asked: the model.
        files: what to read. Files are read as their turn comes, so a folder
            of any size fits into memory.
        options: how to read it.
        batch_size: files per request.
        concurrency: requests under way at a time.

    Raises:
        ServerError: the server cannot answer.
    """
    batches = [
        files[start : start + batch_size]
        for start in range(0, len(files), batch_size)
    ]
    with concurrent.futures.ThreadPoolExecutor(concurrency) as executor:
        futures = [
            executor.submit(_predict_batch, asked, batch, options)
            for batch in batches
        ]
        try:
            for future in futures:
                yield from future.result()
        finally:
            # When one batch fails, the others would fail in the same way.
            executor.shutdown(wait=False, cancel_futures=True)


def format_table(answers: list[Answer]) -> str:
    """Returns an aligned table of the images that were answered."""
    rows = [COLUMNS]
    for answer in answers:
        prediction = answer.prediction
        if answer.error is not None:
            continue
        rows.append(
            (
                answer.file,
                prediction.label,
                f"{prediction.score:.4f}",
                {None: "-", True: "positive", False: "negative"}[
                    prediction.decision
                ],
                " ".join(f"{p:.4f}" for p in prediction.probabilities),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def format_json(answers: list[Answer], target: str, model_name: str) -> str:
    """Returns one JSON document with all answers and errors."""
    predictions = []
    for answer in answers:
        fields = {
            field.name: getattr(answer.prediction, field.name, None)
            for field in dataclasses.fields(client.Prediction)
        }
        predictions.append(
            {"file": answer.file, "error": answer.error, **fields}
        )
    return json.dumps(
        {
            "target": target,
            "model_name": model_name,
            "predictions": predictions,
        },
        indent=2,
    )


def write_csv(answers: list[Answer], file) -> None:
    """Writes a line for each image, with its error if it has one."""
    num_classes = max(
        (len(a.prediction.probabilities) for a in answers if a.prediction),
        default=0,
    )
    names = [f.name for f in dataclasses.fields(client.Prediction)]
    names.remove("probabilities")
    writer = csv.writer(file, lineterminator="\n")
    classes = [f"probability_{index}" for index in range(num_classes)]
    writer.writerow(["file", *names, *classes, "error"])
    for answer in answers:
        values = [getattr(answer.prediction, name, None) for name in names]
        probabilities = getattr(
            answer.prediction, "probabilities", [None] * num_classes
        )
        writer.writerow([answer.file, *values, *probabilities, answer.error])


def _predict_batch(
    asked: client.Client, files: list[str], options: ReadOptions
) -> list[Answer]:
    answers: list[Answer | None] = []
    waiting: list[tuple[int, bytes]] = []
    for file in files:
        for name, encoded, error in _read(file, options):
            if error is None:
                waiting.append((len(answers), encoded))
            answers.append(Answer(name, None, error))
    predictions = asked.predict([encoded for _, encoded in waiting])
    for (index, _), prediction in zip(waiting, predictions, strict=True):
        error = None if prediction.valid else "the server cannot decode it"
        answers[index] = Answer(answers[index].file, prediction, error)
    return answers


def _read(
    file: str, options: ReadOptions
) -> list[tuple[str, bytes, str | None]]:
    """Returns name, bytes to send and error of each image in a file."""
    try:
        images = readers.read_images(
            file,
            window_center=options.window_center,
            window_width=options.window_width,
            slice_axis=options.slice_axis,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [(file, b"", " ".join(reason.split()))]
    return [(file + image.suffix, image.encoded, None) for image in images]


def _read_token() -> str | None:
    if FLAGS.token_file is None:
        return None
    with open(FLAGS.token_file, encoding="utf-8") as file:
        return file.read().strip()


def run(paths: list[str]) -> int:
    """Asks, prints, and returns the exit code."""
    files = find_files(paths)
    if not files:
        raise ValueError(
            f"There must be at least one image. Received: {paths}."
        )
    options = ReadOptions(
        FLAGS.window_center, FLAGS.window_width, FLAGS.slice_axis
    )
    with client.Client(
        FLAGS.target,
        FLAGS.model_name,
        version=FLAGS.model_version,
        timeout_s=FLAGS.timeout_s,
        batch_size=FLAGS.batch_size,
        token=_read_token(),
        ca_file=FLAGS.ca_file,
    ) as asked:
        answers = list(
            tqdm.tqdm(
                predict_files(
                    asked, files, options, FLAGS.batch_size, FLAGS.concurrency
                ),
                total=len(files),
                unit="image",
                disable=not sys.stderr.isatty() or len(files) < 2,
                leave=False,
            )
        )
    if FLAGS.json:
        print(format_json(answers, FLAGS.target, FLAGS.model_name))
    elif FLAGS.csv:
        write_csv(answers, sys.stdout)
    else:
        print(format_table(answers))
    failed = [answer for answer in answers if answer.error is not None]
    for answer in failed:
        print(
            f"serving.predict: {answer.file}: {answer.error}", file=sys.stderr
        )
    return 1 if failed else 0


def main(argv):
    if FLAGS.json and FLAGS.csv:
        raise app.UsageError("Pass --json or --csv, not both.")
    try:
        return run(argv[1:])
    except (ValueError, OSError) as error:
        print(f"serving.predict: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    define_flags()
    app.run(main)
