"""Masks beside their images are told from images, and never part from them."""

import json
import re

import numpy as np
import PIL.Image
import pytest

from tests.data.builders import (
    build,
    make_dicom,
    make_head,
    read_rows,
    write_head,
)
from trainer.data import records
from trainer.data.build import audit, masks, output, sources


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ("x (1).png, x (1)_mask.png, x (1)_mask_1.png", "x (1)_mask"),
        ("1.jpg, 1_Segmentation.png, 11.jpg", "1_Seg"),
        ("B_1_flair.nii.gz, B_1_t1.nii.gz, B_1_seg.nii.gz", "_seg"),
        ("B-1-t1c.nii.gz, B-1-seg.nii.gz, B-10-t1c.nii.gz", "-seg"),
        ("p1/images/2.png, p1/masks/2.png, p2/images/2.png", "masks/"),
        ("2.tif, mask/2_mask.tif", "mask/"),
        # Nothing beside them has their name.
        ("x_mask.png, y.png", "none"),
        ("B_10_t1.png, B_1_seg.png", "none"),
        ("scan_seg_1.png, scan_seg_2.png, scan_3.png", "none"),
        ("masks/1.png, images/2.png", "none"),
        ("mask.png, unmasked.png, segment.png, x_masked.png, x.png", "none"),
    ],
)
def test_mask_is_known_by_its_name_and_its_image(paths, expected):
    names = [f"a/{name}" for name in paths.split(", ")]
    files = sources.arrange_files("in", names)
    images, found = masks.set_apart(files)
    assert sorted(f.path for f in images + found) == [f.path for f in files]
    for file in files:
        is_mask = file.path in {mask.path for mask in found}
        assert is_mask == (expected in file.path), file.path


def test_class_that_is_called_mask_has_none():
    names = ["with_mask/1.png", "with_mask/1_mask.png", "no/with_hat.png"]
    files = sources.arrange_files("in", names)
    assert masks.set_apart(files) == (files, [])


def summarize(data_dir):
    report = json.loads((data_dir / output.AUDIT_FILE).read_text())
    return report, " ".join(audit.summarize(report))


@pytest.fixture
def with_masks(tmp_path):
    """Eight images of each of two classes, with masks; of one all black."""
    for index in range(16):
        path = tmp_path / "s" / "ab"[index % 2] / f"{index}.png"
        write_head(path, index, size=32)
        mask = make_head(index, size=32) > 128 if index % 2 else np.eye(32) > 1
        mask = PIL.Image.fromarray((mask * 255).astype(np.uint8))
        mask.save(path.with_stem(f"{index}_mask"))
    return tmp_path


def test_masks_are_left_out_and_counted(with_masks):
    info = build(with_masks / "s", with_masks / "r")
    assert sum(info.num_images(split) for split in info.splits) == 16
    report, text = summarize(with_masks / "r")
    assert report["masks"] == {"count": 16}
    assert "Masks were left out: 16 files" in text and "--keep_masks" in text


def test_masks_that_are_kept_lie_in_the_split_of_their_image(with_masks):
    # Twice: splits of the first build hold for the second.
    for _ in range(2):
        build(with_masks / "s", with_masks / "r", keep_masks=True)
        rows = read_rows(with_masks / "r")
        places = {(r["group"], r["split"]) for r in rows}
        assert len(rows) == 32 and len(places) == 16
        assert {row["split"] for row in rows} == set(records.SPLITS)
        assert "Masks" not in summarize(with_masks / "r")[1]


def test_dicom_of_a_segmentation_or_a_localizer_is_left_out(with_masks):
    values = make_head(0, size=32)
    segmentation = make_dicom(
        values, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"
    )
    localizer = make_dicom(values, ImageType=["ORIGINAL", "X", "LOCALIZER"])
    for name, data in (("SEG", segmentation), ("SCOUT", localizer)):
        (with_masks / "s" / "a" / name).write_bytes(data)
    (with_masks / "s" / "a" / "cut.dcm").write_bytes(segmentation[:150])
    build(with_masks / "s", with_masks / "r", skip_unreadable=True)
    report, text = summarize(with_masks / "r")
    assert report["no_images"]["count"] == 2
    for file in report["no_images"]["files"]:
        assert re.fullmatch("a/sha256-[0-9a-f]{12}", file["id"])
    assert "of a localizer; it is a DICOM file of a segmentation" in text
    assert report["unreadable"]["count"] == 1 and report["images"] == 16


@pytest.mark.parametrize(
    ("elements", "kind"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "a dose distr"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "a screen"),
        ({"ImageType": "SCOUT"}, "a localizer"),
    ],
)
def test_set_without_a_picture_of_a_patient_is_refused(
    tmp_path, elements, kind
):
    data = make_dicom(make_head(0, size=32), **elements)
    for name in "ab":
        (tmp_path / "s" / name).mkdir(parents=True)
        (tmp_path / "s" / name / "x").write_bytes(data)
    with pytest.raises(ValueError, match=rf"None of the 2 .*{kind}"):
        build(tmp_path / "s", tmp_path / "r")
