"""Which reader a file is for, and what is refused before any is asked."""

import gzip
import sys

import pytest

from tests.data.builders import (
    assert_unreadable,
    encode,
    gradient,
    make_dicom,
    make_nifti,
)
from trainer.data import images
from trainer.data.images import readers


def test_content_and_not_the_extension_tells_the_format(tmp_path):
    (tmp_path / "really_a_png.jpg").write_bytes(encode(gradient()))
    (image,) = readers.read_images(str(tmp_path / "really_a_png.jpg"))
    assert image.source_format == "png"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (b"no format at all" * 9, "not an image"),
        (b"\xff\xd8\xff", "not an image|damaged"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (gzip.compress(b"no volume" * 99, mtime=0), "without a NIfTI"),
    ],
)
def test_no_image_is_refused_with_the_reason(data, reason):
    assert_unreadable(data, reason)


def test_half_a_window_is_refused():
    with pytest.raises(ValueError, match="go together"):
        readers.decode_images(encode(gradient()), window_center=40)


@pytest.mark.parametrize(
    ("kind", "module", "library", "make"),
    [
        ("DICOM", "dicom", "pydicom", make_dicom),
        ("NIfTI", "nifti", "nibabel", lambda v: make_nifti(v[..., None])),
    ],
)
def test_missing_library_is_named_with_its_extra(
    monkeypatch, kind, module, library, make
):
    data = make(gradient())
    readers.decode_images(data)
    monkeypatch.delitem(sys.modules, f"trainer.data.images.{module}")
    monkeypatch.delattr(images, module)
    monkeypatch.setitem(sys.modules, library, None)
    needed = rf"a {kind} file needs `pip install lightbox\[medical\]`"
    assert_unreadable(data, needed)
