"""What the report tells and shows of the data: planted faults are named."""

import shutil

import numpy as np
import PIL.Image
import pytest

from tests.data.builders import COPIES, HEAD, build, make_head
from tests.report.samples import evaluate, make_splits, page_of
from tests.samples import encode
from trainer.data.build import output
from trainer.report import data_audit

NAMES = ("no_tumor", "tumor")
HOSTILE = "<b>x<script>.png"


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Given splits with planted leaks, conflicts and unreadable files."""
    folder = tmp_path_factory.mktemp("audit") / "scans"
    for number in range(48):
        split = ("train", "train", "validation", "test")[number // 2 % 4]
        name = NAMES[number % 2]
        write(
            folder / split / name / f"{number:02d}.png",
            make_head(100 + number, size=64 if name == "tumor" else 60),
        )
    write(folder / "train" / "tumor" / "head.png", HEAD)
    # The same pixels with another label, in another split.
    write(folder / "test" / "no_tumor" / HOSTILE, HEAD)
    # A copy with another label, in the same split.
    other = make_head(1)
    write(folder / "train" / "tumor" / "other.png", other)
    write(
        folder / "train" / "no_tumor" / "small.png",
        np.asarray(PIL.Image.fromarray(other).resize((80, 80))),
    )
    # A harmless copy.
    write(folder / "validation" / "tumor" / "a.png", make_head(2))
    write(folder / "validation" / "tumor" / "b.png", make_head(2))
    (folder / "train" / "tumor" / "broken.png").write_bytes(b"text")
    (folder / "lost.png").write_bytes(b"")
    return folder


def build_with(on_leak, scans, directory):
    build(scans, directory / on_leak, on_leak=on_leak, skip_unreadable=True)
    return directory / on_leak


@pytest.fixture(scope="module")
def allowed(scans, tmp_path_factory):
    return build_with("allow", scans, tmp_path_factory.mktemp("records"))


def find(audit, text):
    (sentence,) = [s for s in audit.sentences if text in s.text]
    return sentence


def page_with(audit):
    return page_of(evaluate(make_splits(), audit=audit))


def test_planted_faults_are_told(allowed):
    audit = data_audit.read_audit(str(allowed))
    assert audit.problem == ""
    leak = find(audit, "lay in more than one split")
    assert "1 group of patients or copies" in leak.text
    assert "1 of train, 1 of test" in leak.text
    assert "too good" in leak.text and leak.is_alarm
    assert find(audit, "1 group of images with identical pixels").is_alarm
    assert find(audit, "1 pair of near-duplicates carry diff").is_alarm
    assert find(audit, "image size tells tumor from the rest").is_alarm
    assert find(audit, "No patient is known").is_alarm
    copies = find(audit, "images were read")
    assert "54 images" in copies.text and not copies.is_alarm
    assert "2 repeat the pixels of another, and 1 are near" in copies.text
    assert find(audit, "(--skip_unreadable): 1.").is_alarm
    assert find(audit, "outside of the class folders").text.endswith(": 1.")
    assert [file["id"] for file in audit.unreadable] == [
        "train/tumor/broken.png"
    ]
    alarms = [sentence.is_alarm for sentence in audit.sentences]
    assert alarms == sorted(alarms, reverse=True)


def test_gravest_pairs_come_first(allowed):
    audit = data_audit.read_audit(str(allowed))
    assert audit.num_pairs == len(audit.pairs) == 3
    first, second, third = audit.pairs
    assert {side.image_id for side in first.sides} == {
        f"test/no_tumor/{HOSTILE}",
        "train/tumor/head.png",
    }
    assert first.title == (
        "identical pixels, different labels, given in two splits"
    )
    assert second.is_conflict and not second.is_leak
    assert second.agreement == pytest.approx(0.98, abs=0.03)
    assert {side.image_id for side in third.sides} == {
        "validation/tumor/a.png",
        "validation/tumor/b.png",
    }
    assert third.title == "identical pixels"
    assert [side.split for side in third.sides] == ["validation"] * 2


@pytest.mark.parametrize(
    ("on_leak", "remedy"),
    [("move", "was moved as a whole"), ("drop", "were kept (--on_leak=drop)")],
)
def test_remedy_is_told(scans, tmp_path, on_leak, remedy):
    data_dir = build_with(on_leak, scans, tmp_path)
    leak = find(data_audit.read_audit(str(data_dir)), "more than one split")
    assert remedy in leak.text and "nothing leaks" in leak.text
    assert not leak.is_alarm


def test_dropped_image_keeps_its_class_but_has_no_picture(scans, tmp_path):
    data_dir = build_with("drop", scans, tmp_path)
    kept = f"test/no_tumor/{HOSTILE}"
    asked = []

    def read_pictures(image_ids):
        asked.extend(image_ids)
        return {kept: encode(HEAD)}

    audit = data_audit.read_audit(str(data_dir), read_pictures)
    pair = audit.pairs[0]
    by_id = {side.image_id: side for side in pair.sides}
    assert by_id[kept].picture == encode(HEAD)
    dropped = by_id["train/tumor/head.png"]
    assert dropped.picture is None and dropped.split == ""
    assert dropped.class_name == "tumor" and dropped.given_split == "train"
    # Nothing but what is shown is read.
    assert len(asked) == len(set(asked)) == 2 * len(audit.pairs)


def test_splits_of_our_own_do_not_leak(tmp_path):
    for number in range(24):
        path = tmp_path / "in" / NAMES[number % 2] / f"{number}.png"
        write(path, make_head(number, size=48))
    write(tmp_path / "in" / "tumor" / "copy.png", make_head(1, size=48))
    build(tmp_path / "in", tmp_path / "r", patient_regex=r"(\d+|copy)\.png")
    audit = data_audit.read_audit(str(tmp_path / "r"))
    assert not find(audit, "No patient, no copy").is_alarm
    assert not find(audit, "25 patients are known.").is_alarm


def test_no_more_pairs_are_shown_than_a_reader_looks_at(tmp_path):
    for number in range(20):
        for copy in "abc":
            name = NAMES[number % 2]
            path = tmp_path / "in" / name / f"{number}{copy}.png"
            write(path, make_head(number, size=48))
    build(tmp_path / "in", tmp_path / "r")
    audit = data_audit.read_audit(str(tmp_path / "r"))
    assert len(audit.pairs) == data_audit.MAX_PAIRS
    assert audit.num_pairs == 40


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (output.AUDIT_FILE, None),
        (output.AUDIT_FILE, "{"),
        (output.AUDIT_FILE, "[]"),
        (output.AUDIT_FILE, '{"images": 3}'),
        (output.AUDIT_FILE, b"\xff\xfe"),
        (output.IMAGES_FILE, None),
        (output.IMAGES_FILE, "a,b\n1,2\n"),
    ],
)
def test_missing_or_damaged_audit_is_one_sentence(
    allowed, tmp_path, name, content
):
    data_dir = tmp_path / "r"
    shutil.copytree(allowed, data_dir)
    if content is None:
        (data_dir / name).unlink()
    else:
        data = content if isinstance(content, bytes) else content.encode()
        (data_dir / name).write_bytes(data)
    audit = data_audit.read_audit(str(data_dir))
    assert name in audit.problem
    assert audit.problem.endswith("build the records again.")


def test_page_says_why_there_is_no_audit():
    assert "R is damaged." in page_with(data_audit.Audit("R is damaged."))


def test_page_shows_pairs_and_hides_what_names_would_run(allowed):
    def read_pictures(image_ids):
        return dict.fromkeys(image_ids, encode(COPIES["brighter"]))

    page = page_with(data_audit.read_audit(str(allowed), read_pictures))
    assert HOSTILE not in page
    assert "&lt;b&gt;x&lt;script&gt;.png" in page
    pairs = page.split('<div class="pairs">')[1].split("</section>")[0]
    assert pairs.count("data:image/jpeg;base64,") == 6
    assert pairs.count('<figure class="bad">') == 2
    assert "left out of the records" not in pairs
    assert "3 of 3 pairs" in page
    assert page.count("<b>Look at this:</b>") >= 5


def test_page_without_an_audit_says_nothing_of_it():
    page = page_with(None)
    assert "Look at this" not in page and "near-duplicates" not in page
