"""From folders and manifests to data sets: what is kept, moved and refused."""

import collections
import hashlib
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.data.builders import (
    assert_same_files,
    build,
    make_dicom,
    make_head,
    read_files,
    read_rows,
    write_head,
    write_heads,
)
from trainer.data import preprocessing, records
from trainer.data.build import leaks, output, shards


@pytest.fixture
def folders(tmp_path):
    """Two classes of twelve heads each, all different."""
    write_heads(tmp_path / "scans", range(24))
    return tmp_path / "scans"


def read_examples(data_dir, info, split):
    names = [str(data_dir / name) for name in info.shard_names(split)]
    for record in tf.data.TFRecordDataset(names).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        yield {
            name: (feature.bytes_list.value or feature.int64_list.value)[0]
            for name, feature in features.items()
        }


def total(info):
    return sum(info.num_images(split) for split in info.splits)


def test_every_image_is_in_one_record_with_its_label(folders, tmp_path):
    info = build(folders, tmp_path / "r", stored_size=32)
    seen = []
    for split in info.splits:
        for example in read_examples(tmp_path / "r", info, split):
            seen.append(example["image/id"].decode())
            name = seen[-1].split("/")[0]
            assert example["image/class/text"].decode() == name
            assert info.class_names[example["image/class/label"]] == name
            path, encoded = folders / seen[-1], example["image/encoded"]
            if split != "train":
                assert encoded == path.read_bytes()
                continue
            assert example["image/format"] == b"jpeg"
            pixels = preprocessing.decode_image(encoded, 1).numpy()
            assert pixels.shape == (32, 32, 1)
            small = PIL.Image.open(path).resize((32, 32), PIL.Image.BICUBIC)
            difference = pixels[..., 0].astype(int) - np.asarray(small)
            assert np.abs(difference).mean() < 3
    expected = sorted(str(p.relative_to(folders)) for p in folders.glob("*/*"))
    assert sorted(seen) == expected
    assert [r["id"] for r in read_rows(tmp_path / "r")] == expected
    assert info.class_names == ("no_tumor", "tumor")
    assert info.positive_class == "tumor" and info.channels == 1
    assert len(info.shard_names("train")) == shards.MIN_TRAIN_SHARDS
    text = (tmp_path / "r" / "dataset.json").read_text()
    assert records.DatasetInfo.from_json(text) == info
    for shard in info.shards:
        data = (tmp_path / "r" / shard.name).read_bytes()
        assert len(data) == shard.num_bytes
        assert hashlib.sha256(data).hexdigest() == shard.sha256


@pytest.mark.parametrize(
    "names", [("Training", "val", "TEST"), ("train", "valid", "testing")]
)
def test_given_splits_are_kept_under_any_usual_name(tmp_path, names):
    for i, name in enumerate(names):
        write_heads(tmp_path / "s" / name, range(6 * i, 6 * i + 6), "ab")
    (tmp_path / "s" / "__MACOSX").mkdir()
    (tmp_path / "s" / names[0] / "a" / ".DS_Store").write_text("x")
    info = build(tmp_path / "s", tmp_path / "r")
    assert info.counts == {s: {"a": 3, "b": 3} for s in records.SPLITS}


def test_folder_of_test_images_alone_is_a_set_to_judge_models_by(tmp_path):
    write_heads(tmp_path / "s" / "test", range(6), "ab")
    info = build(tmp_path / "s", tmp_path / "r")
    assert info.splits == ("test",) and info.counts["test"] == {"a": 3, "b": 3}
    (tmp_path / "s" / "test").rename(tmp_path / "s" / "validation")
    with pytest.raises(ValueError, match="no train folder"):
        build(tmp_path / "s", tmp_path / "r")


@pytest.fixture
def leaking(tmp_path):
    """A given split whose test images 0 and 1 are copies of training ones."""
    write_heads(tmp_path / "s" / "train", range(24), "ab")
    write_heads(tmp_path / "s" / "test", (0, 1, 30, 31), "ab", kind="bmp")
    return tmp_path / "s"


def test_leak_stops_the_build_with_counts_and_remedies(leaking, tmp_path):
    with pytest.raises(ValueError, match=r"2 groups.*2 train, 2 test") as info:
        build(leaking, tmp_path / "r")
    for remedy in leaks.REMEDIES[1:]:
        assert f"--on_leak={remedy}" in str(info.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("on_leak", "num_test", "num_images", "num_leaks"),
    [("move", 6, 28, 0), ("drop", 4, 26, 0), ("allow", 4, 28, 2)],
)
def test_leak_is_dealt_with(
    leaking, tmp_path, on_leak, num_test, num_images, num_leaks
):
    info = build(leaking, tmp_path / "r", on_leak=on_leak)
    assert info.num_images("test") == num_test
    assert total(info) == num_images
    assert info.leaks == num_leaks
    audit = json.loads((tmp_path / "r" / output.AUDIT_FILE).read_text())
    assert audit["leaks"]["images_per_split"] == {"train": 2, "test": 2}
    splits_of = collections.defaultdict(set)
    for row in read_rows(tmp_path / "r"):
        splits_of[row["group"]].add(row["split"])
    spanning = sum(len(s) > 1 for s in splits_of.values())
    assert spanning == (2 if on_leak == "allow" else 0)


def test_unreadable_files_stop_the_build_or_are_listed(folders, tmp_path):
    (folders / "tumor" / "note.jpg").write_text("not an image")
    (folders / "tumor" / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 files.*empty.*skip_unreadable"):
        build(folders, tmp_path / "r")
    assert os.listdir(tmp_path / "r") == [output.UNREADABLE_FILE]
    info = build(folders, tmp_path / "r", skip_unreadable=True)
    assert total(info) == 24
    listed = (tmp_path / "r" / output.UNREADABLE_FILE).read_text()
    assert "tumor/note.jpg" in listed and "tumor/empty.png" in listed


def test_failed_build_leaves_the_old_data_set(folders, tmp_path, monkeypatch):
    build(folders, tmp_path / "r")
    before = read_files(tmp_path / "r")

    def fail(path, *_):
        raise OSError(f"{path} cannot be written (no space left on device)")

    monkeypatch.setattr(shards, "write_shard", fail)
    with pytest.raises(OSError, match="no space left"):
        build(folders, tmp_path / "r", seed=1)
    assert read_files(tmp_path / "r") == before


def test_added_images_do_not_move_the_others(folders, tmp_path):
    build(folders, tmp_path / "r")
    before = {row["id"]: row["split"] for row in read_rows(tmp_path / "r")}
    for index in range(100, 112):
        write_head(folders / "tumor" / f"{index}.png", index)
    build(folders, tmp_path / "r")
    build(folders, tmp_path / "other", previous=str(tmp_path / "r"))
    for data_dir in (tmp_path / "r", tmp_path / "other"):
        after = {row["id"]: row["split"] for row in read_rows(data_dir)}
        assert {i: after[i] for i in before} == before


def test_manifest_with_patients_keeps_them_together(folders, tmp_path):
    lines = ["path,label,patient_id"]
    for path in sorted(folders.glob("*/*")):
        name = path.relative_to(tmp_path)
        lines.append(f"{name},{path.parent.name},MRN-{int(path.stem) // 4}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    build("", tmp_path / "r", manifest=f"{tmp_path}/m.csv", test_fraction=0.0)
    splits_of = collections.defaultdict(set)
    for row in read_rows(tmp_path / "r"):
        patient = int(row["id"][-6:-4]) // 4
        splits_of[patient].add((row["split"], row["group"]))
    assert [len(splits_of[patient]) for patient in range(6)] == [1] * 6


def test_planted_identifiers_reach_no_output(tmp_path, capfd):
    exif = PIL.Image.Exif()
    exif[0x010E] = "PAT-SECRET-EXIF"
    for index in range(24):
        name, patient = "ab"[index % 2], f"PAT-SECRET-{index // 2}"
        folder = tmp_path / "scans" / name / patient
        folder.mkdir(parents=True)
        if index < 12:
            data = make_dicom(make_head(index, size=48), PatientID=patient)
            (folder / f"Secretname_{index}.dcm").write_bytes(data)
        else:
            write_head(folder / f"{patient}_{index}.jpg", index, exif=exif)
    broken = tmp_path / "scans" / "a" / "PAT-SECRET-99"
    broken.mkdir()
    (broken / "x.png").write_text("broken")
    build(
        tmp_path / "scans",
        tmp_path / "r",
        patient_regex=r"(PAT-SECRET-\d+)/",
        skip_unreadable=True,
    )
    printed = capfd.readouterr()
    files = read_files(tmp_path / "r")
    texts = [(printed.out + printed.err).encode(), *files.values()]
    assert len(texts) > 5
    for text in texts:
        assert b"secret" not in text.lower()
    patients = json.loads(files[output.AUDIT_FILE])["patients"]
    assert patients["known"] == patients["with_several_labels"] == 12


def test_colour_set_has_three_channels_and_a_flag_overrides(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(12):
        pixels = generator.integers(0, 255, (20, 20, 3), np.uint8)
        path = tmp_path / "s" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(path)
    assert build(tmp_path / "s", tmp_path / "r").channels == 3
    assert build(tmp_path / "s", tmp_path / "r", channels="1").channels == 1


def command_line(folders, output_dir, *options):
    flags = [f"--input_dir={folders}", f"--output_dir={output_dir}"]
    module = "trainer.data.build_records"
    return [sys.executable, *options, "-m", module, *flags]


def test_command_shares_the_work_without_tensorflow(folders, tmp_path):
    command = command_line(folders, tmp_path / "shared", "-X", "importtime")
    done = subprocess.run(
        [*command, "--num_workers=2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no_tumor" in done.stdout and "24 images" in done.stdout
    assert "\npositive class: tumor (--positive_class changes it)\n" in (
        done.stdout
    )
    assert "trainer.data.records" in done.stderr
    assert "tensorflow" not in done.stderr
    # Workers do not change a byte.
    build(folders, tmp_path / "alone")
    assert_same_files(tmp_path / "alone", tmp_path / "shared")


def test_tinted_images_are_stored_as_the_whole_set_is(tmp_path):
    write_heads(tmp_path / "scans", range(24))
    for index in range(24):
        name = ("no_tumor", "tumor")[index % 2]
        grey = make_head(100 + index, size=48)
        tinted = np.stack([grey, grey, grey // 8 * 8], -1)
        path = tmp_path / "scans" / name / f"tinted_{index}.png"
        PIL.Image.fromarray(tinted).save(path)
    # Decoders make three channels of one.
    for channels, modes in (("auto", {"L"}), ("3", {"RGB", "L"})):
        output_dir = tmp_path / channels
        info = build(tmp_path / "scans", output_dir, channels=channels)
        assert info.channels == (1 if channels == "auto" else 3)
        counts = collections.Counter(
            PIL.Image.open(io.BytesIO(example["image/encoded"])).mode
            for example in read_examples(output_dir, info, "train")
        )
        assert set(counts) == modes and min(counts.values()) > 10


def test_file_that_changes_during_the_build_is_refused(
    folders, tmp_path, monkeypatch
):
    plan_shards = shards.plan_shards

    def change(*arguments):
        for path in folders.rglob("*.png"):
            with open(path, "ab") as file:
                file.write(b"\0")
        return plan_shards(*arguments)

    monkeypatch.setattr(shards, "plan_shards", change)
    with pytest.raises(ValueError, match="changed while the records were"):
        build(folders, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_killed_build_leaves_nothing_that_counts_and_can_be_repeated(tmp_path):
    folders, output_dir = tmp_path / "scans", tmp_path / "r"
    # Large enough that the build can be met at work.
    write_heads(folders, range(24), size=400)
    process = subprocess.Popen(
        [*command_line(folders, output_dir), "--num_workers=2"],
        stderr=subprocess.PIPE,
    )
    while not (output_dir / ".building").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    # The workers share the pipe: it ends when the last of them is gone.
    process.communicate(timeout=30)
    assert os.listdir(output_dir) == [".building"]
    remains = output_dir / ".building" / "train-00000-of-00009.tfrecord"
    remains.write_bytes(b"half a shard")
    build(folders, output_dir)
    assert not remains.parent.exists()
    build(folders, tmp_path / "undisturbed")
    assert_same_files(output_dir, tmp_path / "undisturbed")


def test_second_build_is_refused_and_harms_neither(folders, tmp_path):
    build(folders, tmp_path / "r", seed=1)
    build(folders, tmp_path / "undisturbed", seed=2)
    before = read_files(tmp_path / "r")

    def interfere(*arguments):
        patch.undo()
        with pytest.raises(FileExistsError, match=rf"by process {os.getpid()}"):
            build(folders, tmp_path / "r", seed=3)
        assert {n: read_files(tmp_path / "r").get(n) for n in before} == before
        return shards.plan_shards(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "plan_shards", interfere)
        build(folders, tmp_path / "r", seed=2)
    assert_same_files(tmp_path / "r", tmp_path / "undisturbed")


def test_full_disk_is_one_sentence_and_no_data_set(folders, tmp_path):
    # By a shell: a fork of this process may have gRPC's threads to stop.
    limit = """trap "" XFSZ; ulimit -f 40; exec "$@" """
    done = subprocess.run(
        [
            *("sh", "-c", limit, "sh", *command_line(folders, tmp_path / "r")),
            "--num_workers=1",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "free some space" in done.stderr
    assert not (tmp_path / "r").exists()
