"""From a log of answers to what has moved, by the commands a user runs."""

import json

import numpy as np
import pytest
from PIL import Image

from serving import answer_log
from tests import processes, runs
from tests.serving import brightness
from tests.serving.test_predict import ask
from trainer.storage import csv_text

NAMES = brightness.CLASS_NAMES


@pytest.fixture
def job(tmp_path):
    """What the evaluation of the model would have left: 30 bright of 60."""
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    rows = [["split", "id", "group", "score", "decision"]]
    rows[0] += ["out_of_distribution"]
    for i in range(60):
        score = 0.2 + i / 100
        called = NAMES[0 if score >= 0.5 else 1]
        rows.append(["test", f"{i}.png", f"g{i}", score, called, 2 * score])
    (folder / "predictions.csv").write_text(csv_text.write(rows))
    found = {
        "shown": "test",
        "class_names": NAMES,
        "positive_class": NAMES[0],
        "operating_point": 0.5,
    }
    (folder / "metrics.json").write_text(json.dumps(found))
    return tmp_path / "run"


def judge(job, log):
    return processes.run("serving.drift", f"--reference={job}", f"--log={log}")


def write_scans(directory, levels):
    """Grey images of some patient, of some levels from 0 to 255."""
    for i, level in enumerate(levels):
        folder = directory / f"MUELLER_{i:03}"
        folder.mkdir(parents=True)
        encoded = brightness.encode_image(int(level))
        (folder / "scan.png").write_bytes(encoded)


@pytest.mark.slow
def test_logged_answers_are_compared_with_the_evaluation(
    rest_target, job, tmp_path
):
    log = tmp_path / "answers.jsonl"
    generator = np.random.default_rng(0)
    write_scans(tmp_path / "may", generator.integers(51, 204, 40))
    done = ask(rest_target, f"--log={log}", "--csv", tmp_path / "may")
    assert done.returncode == 0, done.stderr
    assert len(log.read_text().splitlines()) == 40
    assert "MUELLER" not in log.read_text()
    done = judge(job, log)
    assert done.returncode == 0, done.stderr
    assert "have moved, as" not in done.stdout and "40 answers" in done.stdout
    # Later, others come.
    write_scans(tmp_path / "june", generator.integers(200, 250, 40))
    assert not ask(rest_target, f"--log={log}", tmp_path / "june").returncode
    done = judge(job, log)
    assert "80 answers, in their order, beside those for 60" in done.stdout
    assert "Scores: have moved, as answer" in done.stdout
    assert "another device, protocol or kind of patient" in done.stdout
    with Image.open(f"{log}.png") as figure:
        assert figure.format == "PNG"


def test_studies_and_files_without_answer_are_logged_as_such(
    rest_target, tmp_path
):
    log = tmp_path / "answers.jsonl"
    write_scans(tmp_path / "scans", [51, 204])
    (tmp_path / "scans" / "MUELLER_001" / "b.png").write_text("no image")
    done = ask(rest_target, f"--log={log}", "--by=folder", tmp_path / "scans")
    assert done.returncode == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["unit"] for line in lines] == ["study", "study"]
    thresholds = {line["threshold"] for line in lines}
    assert thresholds == {brightness.STUDY_THRESHOLD}


def test_log_that_cannot_be_written_is_refused_before_asking(tmp_path):
    write_scans(tmp_path / "scans", [51])
    done = ask("http://127.0.0.1:9", f"--log={tmp_path}", tmp_path / "scans")
    assert done.returncode == 1
    runs.assert_one_sentence(done.stderr, "serving.predict:", "Is a directory")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("", "has no answer yet"),
        ("a,b\n", "line 1, is no answer as serving.predict --log writes it"),
    ],
)
def test_log_that_says_nothing_is_one_sentence(job, tmp_path, text, message):
    log = tmp_path / "answers.jsonl"
    if text is not None:
        log.write_text(text)
    done = judge(job, log)
    assert done.returncode == 1
    runs.assert_one_sentence(done.stderr, "drift:", message)
    assert not (tmp_path / "answers.jsonl.png").exists()


def test_too_few_answers_are_one_sentence(job, tmp_path, rest_target):
    log = tmp_path / "answers.jsonl"
    write_scans(tmp_path / "scans", [51, 204])
    ask(rest_target, f"--log={log}", tmp_path / "scans")
    assert len(answer_log.read(str(log)).scores) == 2
    done = judge(job, log)
    assert done.returncode == 1
    runs.assert_one_sentence(
        done.stderr, "drift:", "The log has 2 answers; 20 are needed"
    )
