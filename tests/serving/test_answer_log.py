"""The log of answers: whole lines, nobody's name, one model."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from serving import answer_log, client

NAMES = ("ill", "well")
ILL = client.Prediction(
    probabilities=(0.75, 0.25),
    label="ill",
    label_index=0,
    score=0.75,
    decision=True,
    valid=True,
    out_of_distribution=0.5,
    is_out_of_distribution=False,
    overlay=b"pixels",
    decision_label="ill",
    threshold=0.625,
    class_names=NAMES,
    prediction_set=(True, False),
)
WELL = dataclasses.replace(
    ILL, score=0.5, probabilities=(0.5, 0.5), decision_label="well"
)
FAR = dataclasses.replace(WELL, out_of_distribution=None, overlay=None)
INVALID = dataclasses.replace(ILL, valid=False)


def test_answers_are_read_as_they_were_appended(tmp_path):
    path = str(tmp_path / "answers.jsonl")
    answer_log.append(path, [ILL, INVALID, WELL], answer_log.STUDY)
    answer_log.append(path, [], answer_log.STUDY)
    answer_log.append(path, [FAR], answer_log.STUDY)
    found = answer_log.read(path)
    assert (found.unit, found.class_names) == ("study", NAMES)
    assert found.threshold == 0.625
    assert found.scores.tolist() == [0.75, 0.5, 0.5]
    assert found.decisions.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(found.unlikeness, [0.5, 0.5, np.nan])
    for line in (tmp_path / "answers.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {
            *("unit", "class_names", "threshold", "probabilities", "score"),
            *("decision", "out_of_distribution"),
        }


@pytest.mark.parametrize("torn", [b'{"unit": "im', b"x" * 9000])
def test_what_a_kill_left_of_a_line_is_gone(tmp_path, torn):
    path = tmp_path / "answers.jsonl"
    answer_log.append(str(path), [ILL], answer_log.IMAGE)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(answer_log.read(str(path)).scores) == 1
    answer_log.append(str(path), [ILL], answer_log.IMAGE)
    assert path.read_bytes() == 2 * whole
    path.write_bytes(torn)
    answer_log.append(str(path), [ILL], answer_log.IMAGE)
    assert path.read_bytes() == whole


def test_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    answer_log.append(str(path), [ILL], answer_log.IMAGE)
    whole, write = path.read_bytes(), os.pwrite
    room = [150]

    def pwrite(file, data, place):
        if not room:
            raise OSError(28, "No space left on device")
        return write(file, data[: room.pop()], place)

    monkeypatch.setattr(answer_log.os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        answer_log.append(str(path), [WELL, ILL], answer_log.IMAGE)
    assert path.read_bytes() == whole


APPEND = """
import sys
from serving import answer_log
from tests.serving.test_answer_log import FAR, ILL, WELL
print(flush=True)
answers = [ILL, WELL] * 20 if sys.argv[2] == "0" else [FAR] * 7
while True:
    answer_log.append(sys.argv[1], answers, "image")
"""


def test_killed_processes_leave_whole_lines(tmp_path):
    path = tmp_path / "answers.jsonl"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND, str(path), str(i)],
            stdout=subprocess.PIPE,
        )
        for i in range(2)
    ]
    for process in processes:
        process.stdout.readline()
    written = b""
    while len(written) < 10**6 or not all(
        end in written for end in (b": null}\n", b": 0.5}\n")
    ):
        time.sleep(0.01)
        written = path.read_bytes() if path.exists() else b""
    for process in processes:
        process.kill()
        process.communicate()
    found = answer_log.read(str(path))
    # Both wrote; what one call adds is never mixed, but the last may be torn.
    is_far = np.isnan(found.unlikeness)
    assert 0 < is_far.sum() < len(is_far)
    changes = np.flatnonzero(np.diff(is_far.astype(int))) + 1
    for part in np.split(found.scores, changes)[:-1]:
        assert len(part) % (7 if part[0] == part[-1] else 40) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"file,score\n", "line 3, is no answer as serving.predict --log"),
        (b"[1, 2]\n", "line 3, is no answer"),
        (b"\xff\n", "line 3, is no answer"),
        ({"score": "high"}, "line 3, is no answer"),
        ({"score": float("nan")}, "line 3, is no answer"),
        ({"decision": "dog"}, "line 3, is no answer"),
        ({"class_names": None}, "line 3, is no answer"),
        ({"unit": "patient"}, "line 3, is no answer"),
        ({"threshold": 0.5}, "line 3, is of another model than line 1"),
        ({"class_names": ["well", "ill"]}, "line 3, is of another model"),
        ({"unit": "study"}, "or with another --by: begin a new log"),
    ],
)
def test_other_lines_are_refused_by_number(tmp_path, line, message):
    path = tmp_path / "answers.jsonl"
    answer_log.append(str(path), [ILL, WELL], answer_log.IMAGE)
    text = path.read_bytes()
    if isinstance(line, dict):
        first = json.loads(text.splitlines()[0])
        line = json.dumps({**first, **line}).encode() + b"\n"
    path.write_bytes(text + line)
    with pytest.raises(ValueError, match=message):
        answer_log.read(str(path))


def test_log_without_answers_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    answer_log.append(str(path), [INVALID], answer_log.IMAGE)
    assert path.read_bytes() == b""
    with pytest.raises(ValueError, match="has no answer yet"):
        answer_log.read(str(path))
