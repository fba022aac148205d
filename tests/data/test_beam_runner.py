"""The build on Apache Beam's direct runner equals the one on this machine."""

import io
import json
import os

import PIL.Image
import pytest

pytest.importorskip("apache_beam")

from tests.data.builders import assert_same_files, build, make_head, upload
from trainer.data import records
from trainer.data.build import (
    beam,
    output,
    scan,
    shards,
    sources,
    training_images,
)
from trainer.storage import buckets, paths


@pytest.fixture
def folders(tmp_path):
    """Grey PNGs, tinted JPEGs and a TIFF of several pages per class."""
    for name, first in (("no_tumor", 0), ("tumor", 1000)):
        folder = tmp_path / "scans" / name
        folder.mkdir(parents=True)
        heads = [
            PIL.Image.fromarray(make_head(first + index, size=48))
            for index in range(15)
        ]
        for index, image in enumerate(heads[:12]):
            image.save(folder / f"{index}.png")
        for index, image in enumerate(heads[:4]):
            bands = [image, image, image.point(lambda level: level // 2)]
            tinted = PIL.Image.merge("RGB", bands)
            tinted.save(folder / f"tinted_{index}.jpg")
        pages, path = heads[12:], folder / "pages.tiff"
        pages[0].save(path, save_all=True, append_images=pages[1:])
    return tmp_path / "scans"


def test_direct_runner_writes_the_bytes_of_a_local_build(folders, tmp_path):
    build(folders, tmp_path / "local")
    build(folders, tmp_path / "beam", runner="direct")
    assert_same_files(tmp_path / "local", tmp_path / "beam")


def test_files_between_machines_are_json(folders, tmp_path, monkeypatch):
    written, write = {}, paths.write_atomically

    def remember(path, data):
        written[os.path.basename(path)] = data
        write(path, data)

    monkeypatch.setattr(paths, "write_atomically", remember)
    runner = beam.BeamRunner(scan.ReadOptions(), "direct", (), str(tmp_path))
    files = sources.list_folders(str(folders)).files
    form = training_images.TrainingFormat(32, 1)
    facts, _ = runner.scan(files, form, io.BytesIO())
    assert len(facts) == 38
    # Workers of the direct runner are threads of this process.
    assert {name[:8] for name in written} == {"items-00", "results-"}
    for text in written.values():
        assert isinstance(json.loads(text), list)


def test_bucket_is_read_and_its_records_are_replaced(
    folders, tmp_path, bucket_name
):
    url = upload(folders, bucket_name)
    build(folders, tmp_path / "local")
    written = buckets.Folder(f"{url}/records")
    written.upload(b"of an earlier build", "train-00007-of-00009.tfrecord")
    written.upload(b"of a killed build", f"{output.BUILDING}/items-000000")
    for name in output.EARLIER_FILES:
        written.upload(str(tmp_path / "local" / name), name)
    before = written.list()[records.DATASET_FILE].generation
    build(f"{url}/scans", f"{url}/records", runner="direct")
    assert written.list()[records.DATASET_FILE].generation != before
    written.download(written.list(), str(tmp_path / "there"))
    assert_same_files(tmp_path / "local", tmp_path / "there")


def test_unreadable_file_fails_without_a_data_set(folders, tmp_path):
    (folders / "tumor" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"tumor/broken\.png"):
        build(folders, tmp_path / "beam", runner="direct")
    assert os.listdir(tmp_path / "beam") == [output.UNREADABLE_FILE]


def test_failing_build_keeps_the_old_data_set(
    folders, bucket_name, monkeypatch
):
    url = f"gs://{bucket_name}/records"
    buckets.Folder(url).upload(b"earlier", records.DATASET_FILE)
    before = buckets.Folder(url).list()[records.DATASET_FILE].generation
    plan_shards = shards.plan_shards

    def change(*arguments):
        with open(folders / "tumor" / "3.png", "ab") as file:
            file.write(b"\0")
        return plan_shards(*arguments)

    monkeypatch.setattr(shards, "plan_shards", change)
    with pytest.raises(OSError, match=r"tumor/3\.png changed while"):
        build(folders, url, runner="direct")
    names = buckets.Folder(url).list()
    assert names[records.DATASET_FILE].generation == before
    # What workers were told names patients; nothing of it stays.
    assert not [name for name in names if "items-" in name]


@pytest.mark.parametrize(
    ("runner", "options"), [("nowhere", ()), ("direct", ("--job_name",))]
)
def test_unknown_runner_or_option_is_refused(runner, options, tmp_path, capfd):
    with pytest.raises(ValueError, match=f"--runner={runner}"):
        beam.BeamRunner(scan.ReadOptions(), runner, options, str(tmp_path))


def test_remote_path_without_a_runner_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose a --runner"):
        build("gs://bucket/scans", tmp_path / "r")
