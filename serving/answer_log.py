"""A log of what a model answered, in which nobody can be recognised.

A line of JSON per answer, in their order: the numbers, the decision, and what
tells the model from others. No pixels, no names of files, no time.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterable

import numpy as np

from serving.predictions import Prediction
from trainer.evaluation.answers import IMAGE, STUDY, Answers
from trainer.storage import paths


def append(path: str, predictions: Iterable[Prediction], unit: str) -> None:
    """Adds a line per valid prediction, whole or not at all.

    Several processes may write to a log. What one that was killed, or a full
    disk, left of a line goes when the next is added.

    Args:
        path: of the log, on this machine; made if there is none.
        predictions: in the order of the answers.
        unit: what one is of, `IMAGE` or `STUDY`.

    Raises:
        OSError: if they cannot be written; the log is then as it was.
    """
    data = "".join(_to_line(p, unit) for p in predictions if p.valid).encode()
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = place = _end_of_lines(file)
        os.truncate(file, end)
        try:
            while data:
                written = os.pwrite(file, data, place)
                data, place = data[written:], place + written
        except OSError:
            os.truncate(file, end)
            raise
    finally:
        os.close(file)


def _to_line(prediction: Prediction, unit: str) -> str:
    line = {
        "unit": unit,
        "class_names": prediction.class_names,
        "threshold": prediction.threshold,
        "probabilities": prediction.probabilities,
        "score": prediction.score,
        "decision": prediction.decision_label or prediction.label,
        "out_of_distribution": prediction.out_of_distribution,
    }
    return json.dumps(line) + "\n"


def _end_of_lines(file: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 4096)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read(path: str) -> Answers:
    """Reads a log; of a line that is still being written, nothing.

    Raises:
        ValueError: if it is no such log, or one of several models or units.
        OSError: if it cannot be read.
    """
    parsed = []
    for i, line in enumerate(paths.read_bytes(path).split(b"\n")[:-1], start=1):
        try:
            kind, answer = _parse(line)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {i}, is no answer as serving.predict --log "
                "writes it: give another file, or take the line out."
            ) from error
        if parsed and kind != parsed[0][0]:
            raise ValueError(
                f"{path}, line {i}, is of another model than line 1, or with "
                "another --by: begin a new log with each."
            )
        parsed.append((kind, answer))
    if not parsed:
        raise ValueError(f"{path} has no answer yet.")
    scores, decisions, unlikeness = zip(*(a for _, a in parsed), strict=True)
    return Answers(
        *parsed[0][0],
        np.array(scores, float),
        np.array(decisions, int),
        np.array(unlikeness, float),  # None becomes NaN
    )


def _parse(line: bytes) -> tuple[tuple, tuple]:
    """What tells the model, and what it said."""
    values = json.loads(line)
    names = tuple(values["class_names"])
    unit, decision = values["unit"], values["decision"]
    threshold, unlike = values["threshold"], values["out_of_distribution"]
    numbers = [values["score"]]
    numbers += [n for n in (threshold, unlike) if n is not None]
    if not all(math.isfinite(n) for n in numbers) or decision not in names:
        raise ValueError("no finite numbers, or no class")
    if unit not in (IMAGE, STUDY):
        raise ValueError("no unit")
    answer = values["score"], names.index(decision), unlike
    return (unit, names, threshold), answer
