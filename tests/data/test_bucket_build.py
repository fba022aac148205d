"""`build_records` on gs:// writes the bytes of a local build."""

import pytest

from tests import processes
from tests.data.builders import assert_same_files, upload
from tests.samples import encode, make_pixels
from trainer.data.build import output
from trainer.storage import buckets


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of 24 images and a manifest of 20 of them."""
    folder = tmp_path_factory.mktemp("scans")
    lines = ["path,label"]
    (folder / "images").mkdir()
    for i in range(24):
        data = encode(make_pixels(i, i % 2))
        (folder / f"images/{i}.png").write_bytes(data)
        lines.append(f"images/{i}.png,{('no_tumor', 'tumor')[i % 2]}")
    (folder / "manifest.csv").write_text("\n".join(lines[:21]))
    return folder


def build(manifest, output_dir, expect=0):
    done = processes.run(
        "trainer.data.build_records",
        f"--manifest={manifest}",
        f"--output_dir={output_dir}",
        "--num_workers=1",
    )
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if expect else done.stdout


def test_manifest_in_a_bucket_gives_the_bytes_of_a_local_build(
    cloud, bucket_name, scans, tmp_path
):
    url = upload(scans, bucket_name)
    build(scans / "manifest.csv", tmp_path / "records")
    records = buckets.Folder(f"{url}/records")
    records.upload(b"of an earlier build", "train-00007-of-00009.tfrecord")
    records.upload(b"of a run", "features/a.npy")
    cloud.heal()
    said = build(f"{url}/scans/manifest.csv", f"{url}/records")
    assert f"Written to {url}/records; {url}/records/audit.json" in said
    read = [r for r in cloud.requests if "alt=media" in r and "images" in r]
    assert len(read) == 20
    records.download(records.list(), str(tmp_path / "there"))
    (tmp_path / "there" / "features" / "a.npy").unlink()
    assert_same_files(tmp_path / "records", tmp_path / "there")


def test_unreadable_file_is_listed_and_the_old_records_stay(
    bucket_name, scans, cloud
):
    url = upload(scans, bucket_name)
    manifest = f"{url}/scans/manifest.csv"
    build(manifest, f"{url}/records")
    records = buckets.Folder(f"{url}/records")
    before = {n: b.crc32c for n, b in records.list().items()}
    buckets.Folder(f"{url}/scans").upload(b"no image", "images/3.png")
    said = build(manifest, f"{url}/records", expect=1)
    listed = f"{url}/records/{output.UNREADABLE_FILE} lists all of them"
    assert "images/3.png" in said and listed in said
    after = {n: b.crc32c for n, b in records.list().items()}
    assert after.pop(output.UNREADABLE_FILE) != before.pop(
        output.UNREADABLE_FILE
    )
    assert after == before
