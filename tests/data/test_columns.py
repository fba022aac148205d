"""Columns of a manifest that a user keeps reach the data set, no others do."""

import pytest

from tests.data.builders import build
from tests.samples import encode, make_pixels
from trainer.data.build import manifest, output

PATIENT = "Mueller-1953"


def write_scans(directory, columns=("sex", "age"), split=""):
    """Sixty images of thirty patients, and their manifest."""
    given = ["split"] if split else []
    lines = [",".join(["path", "label", "patient_id", *given, *columns])]
    for i in range(60):
        label = i // 2 % 2
        name = f"{PATIENT}-{i // 2}_{i}.png"
        (directory / name).write_bytes(encode(make_pixels(i, label)))
        values = {"sex": "FM"[i // 2 % 3 == 0], "age": str(20 + i // 2)}
        values["note"] = f"{PATIENT}-{i // 2} is well"
        values["copy"] = f"{PATIENT}-{i // 2}"
        cells = [name, f"class_{label}", f"{PATIENT}-{i // 2}"]
        cells += [split] if split else []
        lines.append(",".join([*cells, *(values[c] for c in columns)]))
    path = directory / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_kept_columns_are_found_by_image(tmp_path):
    path = write_scans(tmp_path)
    records_dir = tmp_path / "records"
    build("", records_dir, manifest=str(path), columns=["sex", "age"])
    columns = output.read_columns(str(records_dir))
    assert set(columns) == {"sex", "age"}
    assert len(columns["sex"]) == 60
    for image_id, age in columns["age"].items():
        i = int(image_id.removesuffix(".png").rsplit("_", 1)[1])
        assert age == str(20 + i // 2)
        assert columns["sex"][image_id] == "FM"[i // 2 % 3 == 0]
    assert list(output.read_columns(str(records_dir), ["sex"])) == ["sex"]
    for file in records_dir.iterdir():
        assert PATIENT.encode() not in file.read_bytes()
    # What is not asked for is not kept, nor left over from the build before.
    path = write_scans(tmp_path, columns=())
    build("", records_dir, manifest=str(path))
    assert output.read_columns(str(records_dir)) == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["note"], "note repeats patient_id in 60 lines"),
        (["copy"], "copy repeats patient_id"),
        (["patient_id"], "not patient_id: leave that out"),
        (["view"], "has no column view: choose --columns from path,label"),
        (["sex"], "Remove note,copy, or keep it with --columns=note,copy"),
    ],
)
def test_columns_that_tell_patients_or_are_absent_are_refused(
    tmp_path, columns, message
):
    written = ("sex", "note", "copy") if columns == ["sex"] else columns
    path = write_scans(
        tmp_path, [c for c in written if c in ("note", "copy", "sex")]
    )
    with pytest.raises(ValueError, match=message) as raised:
        manifest.read_manifest(str(path), columns=columns)
    assert PATIENT not in str(raised.value)


@pytest.mark.parametrize("patient", ["0", "P12", "P123"])
def test_age_that_is_another_ones_short_id_is_kept(tmp_path, patient):
    rows = ["path,label,patient_id,age", f"0.png,x,{patient},{patient}"]
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encode(make_pixels(i, 0)))
    rows += [f"{i}.png,x,{i},{2 * i}" for i in (1, 2)]
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(rows))
    if len(patient) > 3:
        with pytest.raises(ValueError, match="age repeats patient_id in 1"):
            manifest.read_manifest(str(path), columns=["age"])
        return
    files = manifest.read_manifest(str(path), columns=["age"]).files
    assert [source.columns for source in files] == [(patient,), ("2",), ("4",)]


def test_columns_of_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="folders have none"):
        build(str(tmp_path), str(tmp_path / "records"), columns=["sex"])


def test_images_that_are_all_for_testing_make_a_set(tmp_path):
    path = write_scans(tmp_path, split="test")
    info = build("", tmp_path / "r", manifest=str(path), columns=["sex", "age"])
    assert info.splits == ("test",)
    assert info.num_images("test") == 60
