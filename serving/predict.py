r"""Asks a server what is on images.

    python -m serving.predict --target=grpc://127.0.0.1:8500 \
        --model_name=classifier scan.png series.dcm folder/

Prints a table, or with `--json` or `--csv` something for machines. Images of
every format that Lightbox trains on are sent as the pixels that it trains on.
Of two classes it says the one decided on, the probability of the positive one,
and the threshold that this was held against. `unlike` warns of images that the
model has seen nothing like. One bad image does not keep the others from being
answered, but the exit code is 1.
With `--by=folder` or `--by=patient` it gives one answer per study. `--log`
keeps scores and decisions, and nothing of whom they are: see `serving.drift`.
"""

import dataclasses
import json
import os
import pathlib
import re
import sys

from absl import app, flags

from serving import (
    answer_log,
    client,
    client_flags,
    image_files,
    image_studies,
)
from trainer import startup
from trainer.storage import csv_text, paths

FLAGS = flags.FLAGS
# Of two classes the score is that of the positive one.
COLUMNS = ("file", "decision", "score", "threshold", "unlike")
COLUMNS_OF_MANY = ("file", "label", "score", "probabilities", "unlike")
# Of a prediction, what goes into JSON and CSV.
FIELDS = tuple(
    field.name
    for field in dataclasses.fields(client.Prediction)
    if field.name != "overlay"
)


def define_flags() -> None:
    """Defines the flags; only the command calls it."""
    client_flags.define_flags(image_files.BATCH_SIZE)
    flags.adopt_module_key_flags(client_flags)
    flags.DEFINE_integer(
        "model_version", None, "Version to ask; default: the newest."
    )
    flags.DEFINE_integer(
        "concurrency",
        image_files.CONCURRENCY,
        "Requests under way at a time.",
        lower_bound=1,
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
    flags.DEFINE_string(
        "explain_dir",
        None,
        "Directory for a PNG of each image that shows what its label rests "
        "on. Takes several times as long.",
    )
    flags.DEFINE_enum(
        "by",
        None,
        image_studies.BY,
        "One answer for all images of a study, by the rule of the model: of a "
        "folder, or of a patient, as DICOM files name them. A volume is a "
        "study; where no patient is named, a folder is.",
    )
    flags.DEFINE_string(
        "log",
        None,
        "File on this machine that a line per answer is added to: its numbers, "
        "the decision and the classes, no pixels and no names.",
    )
    flags.DEFINE_bool("json", False, "Print one JSON document.")
    flags.DEFINE_bool("csv", False, "Print CSV.")


def format_table(answers: list[image_files.Answer]) -> str:
    """Returns an aligned table of the images that were answered."""
    found = [answer for answer in answers if answer.error is None]
    rows = [_row(answer.file, answer.prediction) for answer in found]
    columns = COLUMNS
    if any(answer.prediction.decision is None for answer in found):
        columns = COLUMNS_OF_MANY
    if any(answer.num_images > 1 for answer in found):
        columns = (*columns, "images")
        rows = [
            (*row, str(answer.num_images))
            for row, answer in zip(rows, found, strict=True)
        ]
    widths = [
        max(map(len, cells)) for cells in zip(columns, *rows, strict=True)
    ]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (columns, *rows)
    )


def _row(file: str, prediction: client.Prediction) -> tuple[str, ...]:
    unlike = {None: "-", True: "yes", False: "no"}
    cells = (f"{prediction.score:.4f}",)
    if prediction.decision is None:
        cells = (prediction.label, *cells)
        last = " ".join(f"{p:.4f}" for p in prediction.probabilities)
    else:
        # A server of an older export tells no name and no threshold.
        default = "positive" if prediction.decision else "negative"
        cells = (prediction.decision_label or default, *cells)
        last = "-"
        if prediction.threshold is not None:
            last = f"{prediction.threshold:.4f}"
    if len(prediction.possible) > 1:
        possible = " or ".join(prediction.possible)
        cells = (f"{cells[0]} (uncertain: {possible})", *cells[1:])
    return (file, *cells, last, unlike[prediction.is_out_of_distribution])


def format_json(
    answers: list[image_files.Answer], target: str, model_name: str
) -> str:
    """Returns one JSON document with all answers and errors."""
    predictions = [
        {
            "file": answer.file,
            "error": answer.error,
            "num_images": answer.num_images,
        }
        | {name: getattr(answer.prediction, name, None) for name in FIELDS}
        for answer in answers
    ]
    document = {"target": target, "model_name": model_name}
    return json.dumps({**document, "predictions": predictions}, indent=2)


def write_csv(answers: list[image_files.Answer], file) -> None:
    """Writes a line for each image, with its error if it has one.

    `possible` are the classes of its prediction set, with | between them.
    """
    num_classes = max(
        (len(a.prediction.probabilities) for a in answers if a.prediction),
        default=0,
    )
    left_out = {"probabilities", "class_names", "prediction_set"}
    names = [name for name in FIELDS if name not in left_out] + ["possible"]
    classes = [f"probability_{index}" for index in range(num_classes)]
    rows = [["file", *names, *classes, "error"]]
    nothing = [None] * num_classes
    for answer in answers:
        values = [getattr(answer.prediction, name, None) for name in names]
        values[-1] = "|".join(values[-1] or ())
        probabilities = getattr(answer.prediction, "probabilities", nothing)
        rows.append([answer.file, *values, *probabilities, answer.error])
    file.write(csv_text.write(rows))


def _keep(answer: image_files.Answer) -> image_files.Answer:
    """Writes the overlay to a file, if there is one, and drops it."""
    if answer.prediction is None or answer.prediction.overlay is None:
        return answer
    path = pathlib.Path(FLAGS.explain_dir, overlay_name(answer.file))
    paths.write_atomically(str(path), answer.prediction.overlay)
    prediction = dataclasses.replace(answer.prediction, overlay=None)
    return dataclasses.replace(answer, prediction=prediction)


def overlay_name(file: str) -> str:
    """Returns a file name that differs for different paths."""
    relative = os.path.normpath(file).replace("\\", "/").lstrip("/")
    return re.sub(r"[^\w.#-]", "_", relative.replace("_", "__")) + ".png"


def run(paths: list[str]) -> int:
    """Asks, prints, and returns the exit code."""
    files = image_files.find_files(paths)
    if FLAGS.explain_dir is not None:
        os.makedirs(FLAGS.explain_dir, exist_ok=True)
    if FLAGS.log:
        answer_log.append(FLAGS.log, (), "")  # refused before asking
    names = ("window_center", "window_width", "slice_axis")
    options = {name: FLAGS[name].value for name in names}
    with client_flags.open_client(FLAGS.model_version) as asked:
        answers = [
            _keep(answer)
            for answer in image_files.predict_files(
                asked,
                files,
                options,
                batch_size=FLAGS.batch_size,
                concurrency=FLAGS.concurrency,
                explain=FLAGS.explain_dir is not None,
                progress=True,
            )
        ]
    failed = [f"{a.file}: {a.error}" for a in answers if a.error is not None]
    if FLAGS.by is not None:
        answers = image_studies.combine(answers, FLAGS.by)
    if FLAGS.log:
        answer_log.append(
            FLAGS.log,
            [a.prediction for a in answers if a.prediction],
            answer_log.STUDY if FLAGS.by else answer_log.IMAGE,
        )
    if FLAGS.json:
        print(format_json(answers, FLAGS.target, FLAGS.model_name))
    elif FLAGS.csv:
        write_csv(answers, sys.stdout)
    else:
        print(format_table(answers))
    for line in failed:
        print(f"serving.predict: {line}", file=sys.stderr)
    return 1 if failed else 0


def main(argv):
    if FLAGS.json and FLAGS.csv:
        raise app.UsageError("Pass --json or --csv, not both.")
    try:
        return run(argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"serving.predict: {error}")


if __name__ == "__main__":
    define_flags()
    startup.run(
        main,
        {
            "model_version": "Requests",
            "window_center": "Reading scans",
            "explain_dir": "Output",
            "target": "Server",
        },
    )
