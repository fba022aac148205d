"""The build on Apache Beam's direct runner equals the one on this machine."""

import filecmp
import functools
import io
import os
import posixpath
import shutil

import PIL.Image
import pytest

pytest.importorskip("apache_beam")

from apache_beam.io import localfilesystem

from tests.data.test_duplicates import make_head
from trainer.data import build_records, records
from trainer.data.build import beam, output, scan, shards


class BucketFileSystem(localfilesystem.LocalFileSystem):
    """`bucket://...`, kept in the folder `ROOT`, as a store without folders."""

    ROOT = ""

    @classmethod
    def scheme(cls):
        return "bucket"

    def _local(self, path):
        return path.replace("bucket://", self.ROOT + "/")

    def join(self, basepath, *paths):
        return posixpath.join(basepath, *paths)

    def mkdirs(self, path):
        os.makedirs(self._local(path), exist_ok=True)

    def exists(self, path):
        return super().exists(self._local(path))

    def create(self, path, *arguments, **options):
        os.makedirs(os.path.dirname(self._local(path)), exist_ok=True)
        return super().create(self._local(path), *arguments, **options)

    def open(self, path, *arguments, **options):
        return super().open(self._local(path), *arguments, **options)

    def delete(self, paths):
        for path in paths:
            os.remove(self._local(path))

    def rename(self, old, new):
        super().rename(
            [self._local(path) for path in old],
            [self._local(path) for path in new],
        )

    def match(self, patterns, limits=None):
        results = super().match([self._local(p) for p in patterns], limits)
        for result in results:
            for metadata in result.metadata_list:
                metadata.path = metadata.path.replace(
                    self.ROOT + "/", "bucket://"
                )
        return results


@pytest.fixture
def folders(tmp_path):
    """Grey PNGs, tinted JPEGs and a TIFF of several pages per class."""
    for name in ("no_tumor", "tumor"):
        folder = tmp_path / "store" / "scans" / name
        folder.mkdir(parents=True)
        first = 1000 * (name == "tumor")
        for index in range(12):
            image = PIL.Image.fromarray(make_head(first + index, size=48))
            image.save(folder / f"{index}.png")
            bands = [image, image, image.point(lambda level: level // 2)]
            if index % 3 == 0:
                tinted = PIL.Image.merge("RGB", bands)
                tinted.save(folder / f"tinted_{index}.jpg")
        pages = [
            PIL.Image.fromarray(make_head(first + 500 + index, size=48))
            for index in range(3)
        ]
        pages[0].save(
            folder / "pages.tiff", save_all=True, append_images=pages[1:]
        )
    return tmp_path / "store" / "scans"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(BucketFileSystem, "ROOT", str(tmp_path / "store"))


def assert_same_files(first, second):
    names = sorted(os.listdir(first))
    assert sorted(os.listdir(second)) == names
    _, different, errors = filecmp.cmpfiles(first, second, names, shallow=False)
    assert (different, errors) == ([], [])


def test_direct_runner_writes_the_bytes_of_a_local_build(folders, tmp_path):
    build_records.build(str(folders), str(tmp_path / "local"), num_workers=1)
    build_records.build(str(folders), str(tmp_path / "beam"), runner="direct")
    assert_same_files(tmp_path / "local", tmp_path / "beam")


def test_bucket_is_read_and_written(folders, tmp_path, bucket):
    build_records.build(str(folders), str(tmp_path / "local"), num_workers=1)
    # Twice: the second build finds the splits of the first and replaces it.
    for _ in range(2):
        build_records.build(
            "bucket://scans", "bucket://records", runner="direct"
        )
    remote = tmp_path / "store" / "records"
    building = remote / output.BUILDING
    assert not [path for path in building.rglob("*") if path.is_file()]
    shutil.rmtree(building)
    assert_same_files(tmp_path / "local", remote)


def test_unreadable_file_fails_without_a_data_set(folders, tmp_path):
    (folders / "tumor" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"tumor/broken\.png"):
        build_records.build(
            str(folders), str(tmp_path / "beam"), runner="direct"
        )
    assert os.listdir(tmp_path / "beam") == [output.UNREADABLE_FILE]


def test_failing_build_keeps_the_old_data_set(
    folders, tmp_path, bucket, monkeypatch
):
    build = functools.partial(
        build_records.build,
        "bucket://scans",
        "bucket://records",
        runner="direct",
    )
    build()
    remote = tmp_path / "store" / "records"
    before = (remote / records.DATASET_FILE).read_bytes()

    plan_shards = shards.plan_shards

    def change(*arguments):
        with open(folders / "tumor" / "3.png", "ab") as file:
            file.write(b"\0")
        return plan_shards(*arguments)

    monkeypatch.setattr(shards, "plan_shards", change)
    with pytest.raises(OSError, match=r"tumor/3\.png changed while"):
        build(seed=1)
    assert (remote / records.DATASET_FILE).read_bytes() == before
    # What workers were told names patients; nothing of it stays.
    assert not list((remote / output.BUILDING).rglob("items-*"))


@pytest.mark.parametrize(
    ("runner", "options"), [("nowhere", ()), ("direct", ("--job_name",))]
)
def test_unknown_runner_or_option_is_refused(runner, options, tmp_path, capfd):
    with pytest.raises(ValueError, match=f"--runner={runner}"):
        beam.BeamRunner(scan.ReadOptions(), runner, options, str(tmp_path))


def test_remote_path_without_a_runner_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose a --runner"):
        build_records.build("gs://bucket/scans", str(tmp_path / "r"))


def test_file_that_is_half_written_has_no_name(tmp_path):
    def fail(file: io.BytesIO):
        file.write(b"half")
        raise RuntimeError("worker lost")

    path = str(tmp_path / "shard")
    with pytest.raises(RuntimeError):
        beam.write_whole(path, fail)
    assert not os.path.exists(path)
