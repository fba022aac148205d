"""What the report tells and shows of the data: planted faults are named."""

import functools
import shutil

import pytest

from tests.data.builders import (
    COPIES,
    HEAD,
    build,
    make_head,
    resized,
    write_head,
)
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
def build_with(tmp_path_factory):
    """Builds given splits with planted leaks, conflicts and unreadable files.

    By what is done about leaks.
    """
    folder = tmp_path_factory.mktemp("audit") / "scans"
    for number in range(48):
        split = ("train", "train", "validation", "test")[number // 2 % 4]
        size = 64 if number % 2 else 60
        write(
            folder / split / NAMES[number % 2] / f"{number:02d}.png",
            make_head(100 + number, size=size),
        )
    other = make_head(1)
    for name, pixels in {
        "train/tumor/head.png": HEAD,
        # The same pixels with another label, in another split.
        f"test/no_tumor/{HOSTILE}": HEAD,
        # A copy with another label, in the same split.
        "train/tumor/other.png": other,
        "train/no_tumor/small.png": resized(other, 80, 80),
        # A harmless copy.
        "validation/tumor/a.png": make_head(2),
        "validation/tumor/b.png": make_head(2),
    }.items():
        write(folder / name, pixels)
    (folder / "train" / "tumor" / "broken.png").write_bytes(b"text")
    (folder / "lost.png").write_bytes(b"")

    @functools.cache
    def build_once(on_leak):
        directory = folder.parent / on_leak
        build(folder, directory, on_leak=on_leak, skip_unreadable=True)
        return str(directory)

    return build_once


@pytest.fixture
def allowed(build_with):
    return build_with("allow")


def find(audit, text):
    (sentence,) = [s for s in audit.sentences if text in s.text]
    return sentence


def test_planted_faults_are_told(allowed):
    audit = data_audit.read_audit(allowed)
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
    audit = data_audit.read_audit(allowed)
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
def test_remedy_is_told(build_with, on_leak, remedy):
    leak = find(
        data_audit.read_audit(build_with(on_leak)), "more than one split"
    )
    assert remedy in leak.text and "nothing leaks" in leak.text
    assert not leak.is_alarm


def test_dropped_image_keeps_its_class_but_has_no_picture(build_with):
    kept = f"test/no_tumor/{HOSTILE}"
    asked = []

    def read_pictures(image_ids):
        asked.extend(image_ids)
        return {kept: encode(HEAD)}

    audit = data_audit.read_audit(build_with("drop"), read_pictures)
    by_id = {side.image_id: side for side in audit.pairs[0].sides}
    assert by_id[kept].picture == encode(HEAD)
    dropped = by_id["train/tumor/head.png"]
    assert dropped.picture is None and dropped.split == ""
    assert dropped.class_name == "tumor" and dropped.given_split == "train"
    # Nothing but what is shown is read.
    assert len(asked) == len(set(asked)) == 2 * len(audit.pairs)


def test_splits_of_our_own_do_not_leak(tmp_path):
    for number in range(24):
        path = tmp_path / "in" / NAMES[number % 2] / f"{number}.png"
        write_head(path, number)
    write_head(tmp_path / "in" / "tumor" / "copy.png", 1)
    build(tmp_path / "in", tmp_path / "r", patient_regex=r"(\d+|copy)\.png")
    audit = data_audit.read_audit(str(tmp_path / "r"))
    assert not find(audit, "No patient, no copy").is_alarm
    assert not find(audit, "25 patients are known.").is_alarm


def test_no_more_pairs_are_shown_than_a_reader_looks_at(tmp_path):
    for number in range(12):
        for copy in "abc":
            name = f"{NAMES[number % 2]}/{number}{copy}.png"
            write_head(tmp_path / "in" / name, number)
    build(tmp_path / "in", tmp_path / "r")
    audit = data_audit.read_audit(str(tmp_path / "r"))
    assert len(audit.pairs) == data_audit.MAX_PAIRS
    assert audit.num_pairs == 24


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (output.AUDIT_FILE, None),
        (output.AUDIT_FILE, b"{"),
        (output.AUDIT_FILE, b"[]"),
        (output.AUDIT_FILE, b'{"images": 3}'),
        (output.AUDIT_FILE, b"\xff\xfe"),
        (output.IMAGES_FILE, None),
        (output.IMAGES_FILE, b"a,b\n1,2\n"),
    ],
)
def test_missing_or_damaged_audit_is_one_sentence(
    allowed, tmp_path, name, content
):
    for file in (output.AUDIT_FILE, output.IMAGES_FILE):
        shutil.copy(f"{allowed}/{file}", tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    audit = data_audit.read_audit(str(tmp_path))
    assert name in audit.problem
    assert audit.problem.endswith("build the records again.")


def test_page_shows_pairs_and_hides_what_names_would_run(allowed):
    def read_pictures(image_ids):
        return dict.fromkeys(image_ids, encode(COPIES["brighter"]))

    audit = data_audit.read_audit(allowed, read_pictures)
    page = page_of(evaluate(make_splits(), audit=audit))
    assert HOSTILE not in page
    assert "&lt;b&gt;x&lt;script&gt;.png" in page
    pairs = page.split('<div class="pairs">')[1].split("</section>")[0]
    assert pairs.count("data:image/jpeg;base64,") == 6
    assert pairs.count('<figure class="bad">') == 2
    assert "left out of the records" not in pairs
    assert "3 of 3 pairs" in page
    assert page.count("<b>Look at this:</b>") >= 5


def test_page_without_an_audit_says_so_or_nothing(binary, illustrated):
    assert "R is damaged." in page_of(illustrated.evaluation)
    page = page_of(binary)
    assert "Look at this" not in page and "near-duplicates" not in page
