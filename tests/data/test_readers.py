"""Files of every kind, whole and damaged, against pixels known beforehand."""

import io

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from tests.conftest import SHARED
from tests.data.builders import (
    colour,
    gradient,
    read_one,
    save,
    write_dicom,
    write_nifti,
)
from trainer.data.images import readers, strip
from trainer.data.images.image import is_grey, pixel_sha256

DICOM = SHARED / "data" / "dicom"
needs_dicom = pytest.mark.skipif(
    not DICOM.exists(), reason="the DICOM samples are not here"
)
BRAIN = SHARED / "data" / "brain_mri_253"
needs_brain = pytest.mark.skipif(
    not BRAIN.exists(), reason="brain_mri_253 is not here"
)


def decode(data: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_format_keeps_grey_pixels(tmp_path, image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    path = save(tmp_path / "x", gradient(), image_format, **options)
    image = read_one(path)
    np.testing.assert_array_equal(image.pixels, gradient())
    np.testing.assert_array_equal(decode(image.encoded), gradient())
    assert image.source_format == image_format.lower()


def test_extension_is_ignored(tmp_path):
    path = save(tmp_path / "really_a_png.jpg", gradient(), "PNG")
    assert read_one(path).source_format == "png"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_png_mode_keeps_its_bytes_and_its_colour(tmp_path, mode):
    source = PIL.Image.fromarray(colour()).convert(mode)
    if mode == "RGBA":
        source.putalpha(100)
    path = save(tmp_path / "x.png", source, "PNG")
    image = read_one(path)
    assert image.encoded == (tmp_path / "x.png").read_bytes()
    expected = source.convert("L" if mode == "LA" else "RGB")
    np.testing.assert_array_equal(image.pixels, np.asarray(expected))


def test_jpeg_loses_metadata_but_no_pixel(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x010E] = "JOHN-DOE"
    path = save(
        tmp_path / "x.jpg", gradient(), "JPEG", exif=exif, comment=b"JANE-DOE"
    )
    original = (tmp_path / "x.jpg").read_bytes()
    assert b"JOHN-DOE" in original and b"JANE-DOE" in original
    image = read_one(path)
    assert image.format == "jpeg"
    assert b"-DOE" not in image.encoded
    np.testing.assert_array_equal(decode(image.encoded), decode(original))


def test_png_loses_text_but_no_pixel(tmp_path):
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Comment", "JOHN-DOE")
    text.add_itxt("Author", "JANE-DOE")
    path = save(tmp_path / "x.png", gradient(), "PNG", pnginfo=text)
    image = read_one(path)
    assert b"-DOE" not in image.encoded
    np.testing.assert_array_equal(decode(image.encoded), gradient())


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied_and_encoded(tmp_path, image_format):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = save(tmp_path / "x", gradient(), image_format, exif=exif)
    image = read_one(path)
    plain = save(tmp_path / "plain", gradient(), image_format)
    expected = np.rot90(read_one(plain).pixels, -1)
    np.testing.assert_array_equal(image.pixels, expected)
    np.testing.assert_array_equal(decode(image.encoded), expected)


def test_16_bit_png_is_windowed(tmp_path):
    values = np.linspace(0, 60000, 24 * 32).reshape(24, 32).astype(np.uint16)
    path = save(tmp_path / "x.png", values, "PNG")
    image = read_one(path)
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(image.pixels, expected, atol=0.51)
    assert image.bit_depth == 16
    (given,) = readers.read_images(
        path, window_center=30000, window_width=20000
    )
    expected = np.clip((values - 20000.0) / 20000, 0, 1) * 255
    np.testing.assert_allclose(given.pixels, expected, atol=0.51)


def test_multi_page_tiff_gives_an_image_per_page(tmp_path):
    pages = [PIL.Image.fromarray(gradient() // d) for d in (1, 2, 3)]
    path = tmp_path / "x.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    images = readers.read_images(str(path))
    assert [image.suffix for image in images] == ["#0", "#1", "#2"]
    np.testing.assert_array_equal(images[2].pixels, gradient() // 3)


def test_equal_channels_are_one_and_hash_alike(tmp_path):
    grey = read_one(save(tmp_path / "grey.png", gradient(), "PNG"))
    stacked = np.stack([gradient()] * 3, axis=-1)
    rgb = read_one(save(tmp_path / "rgb.bmp", stacked, "BMP"))
    assert rgb.pixels.ndim == 2
    assert pixel_sha256(grey.pixels) == pixel_sha256(rgb.pixels)
    assert pixel_sha256(gradient()) != pixel_sha256(gradient().reshape(32, 24))


def test_small_marks_and_tints_are_grey_but_colour_is_not():
    tinted = np.stack([gradient() // 2, gradient() // 2 + 20] * 2, axis=-1)
    assert is_grey(tinted[..., :3])
    marked = np.stack([gradient()] * 3, axis=-1)
    marked[:2, :10] = (255, 0, 0)
    assert is_grey(marked)
    assert not is_grey(colour())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (b"\xff\xd8\xff", "not an image|damaged"),
        (b"\x1f\x8b\x08\x00", "gzip"),
    ],
)
def test_no_image_is_refused_with_the_reason(tmp_path, data, reason):
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        readers.read_images(str(path))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_truncated_file_is_refused(tmp_path, image_format):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    path = save(tmp_path / "x", noise, image_format)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"damaged|not an image"):
        readers.read_images(path)


def test_bomb_is_refused_by_its_header(tmp_path):
    png = bytearray(
        (tmp_path / "x.png").read_bytes()
        if save(tmp_path / "x.png", gradient(), "PNG")
        else b""
    )
    png[16:24] = (30_000).to_bytes(4, "big") * 2
    # The header has a checksum, which Pillow looks at.
    import zlib

    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(bytes(png))
    with pytest.raises(ValueError, match=r"30000|pixels are more than"):
        readers.read_images(str(tmp_path / "x.png"))


def test_half_a_window_is_refused(tmp_path):
    path = save(tmp_path / "x.png", gradient(), "PNG")
    with pytest.raises(ValueError, match="go together"):
        readers.read_images(path, window_center=40)


def test_strip_jpeg_of_progressive_file_keeps_all_scans(tmp_path):
    path = save(tmp_path / "x.jpg", colour(), "JPEG", progressive=True)
    data = (tmp_path / "x.jpg").read_bytes()
    stripped = strip.strip(data + b"after the end", "jpeg")
    assert strip.strip(data + b"x", "jpeg") == stripped
    assert b"after the end" not in stripped
    np.testing.assert_array_equal(decode(stripped), decode(data))
    assert read_one(path).quality in range(70, 81)


@needs_brain
def test_brain_mri_253_has_25_surplus_copies_and_is_grey():
    images = [read_one(p) for p in sorted(BRAIN.glob("*/*"))]
    hashes = {pixel_sha256(image.pixels) for image in images}
    assert len(images) - len(hashes) == 25
    assert all(is_grey(image.pixels) for image in images)


@needs_brain
@pytest.mark.slow
def test_stripped_bytes_decode_as_the_original_in_tensorflow():
    import tensorflow as tf

    for path in sorted(BRAIN.glob("*/*"))[::3]:
        encoded = read_one(path).encoded
        for channels in (1, 3):
            kept, original = (
                tf.io.decode_image(
                    b, channels=channels, expand_animations=False
                )
                for b in (encoded, path.read_bytes())
            )
            np.testing.assert_array_equal(kept, original, err_msg=path.name)


@needs_dicom
def test_compressed_dicom_twins_have_equal_pixels():
    plain = read_one(DICOM / "MR_small.dcm").pixels
    for twin in ("RLE", "jp2klossless", "jpeg_ls_lossless"):
        np.testing.assert_array_equal(
            read_one(DICOM / f"MR_small_{twin}.dcm").pixels, plain
        )
    np.testing.assert_array_equal(
        read_one(DICOM / "693_J2KR.dcm").pixels,
        read_one(DICOM / "693_UNCR.dcm").pixels,
    )


@needs_dicom
def test_dicom_window_and_rescale_follow_the_standard():
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(DICOM / "693_UNCR.dcm")
    units = dataset.pixel_array.astype(float) - 1024
    # DICOM PS3.3 C.11.2.1.2.1 with center 40 and width 100.
    expected = ((units - 39.5) / 99 + 0.5) * 255
    np.testing.assert_allclose(
        read_one(DICOM / "693_UNCR.dcm").pixels,
        np.clip(expected, 0, 255),
        atol=0.51,
    )


@needs_dicom
def test_monochrome1_is_inverted():
    pydicom = pytest.importorskip("pydicom")
    stored = pydicom.dcmread(DICOM / "RG3_J2KR.dcm").pixel_array
    pixels = read_one(DICOM / "RG3_J2KR.dcm").pixels
    assert pixels[stored == stored.min()].min() > 250
    assert pixels[stored == stored.max()].max() < 10


@needs_dicom
def test_dicom_frames_palette_and_overlays():
    frames = readers.read_images(str(DICOM / "emri_small.dcm"))
    assert [f.suffix for f in frames] == [f"#{i}" for i in range(10)]
    assert read_one(DICOM / "examples_palette.dcm").pixels.shape == (
        350,
        800,
        3,
    )
    overlays = read_one(DICOM / "MR-SIEMENS-DICOM-WithOverlays.dcm")
    assert overlays.pixels.shape == (484, 484)


@needs_dicom
def test_truncated_dicom_is_refused():
    with pytest.raises(ValueError, match="cannot be decoded"):
        readers.read_images(str(DICOM / "MR_truncated.dcm"))


def test_8_bit_dicom_without_window_keeps_its_values(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", gradient())
    image = read_one(path)
    np.testing.assert_array_equal(image.pixels, gradient())
    assert image.patient_id == "PAT-SECRET-1"
    assert "SECRET" not in repr(image).upper()


def test_dicom_padding_does_not_set_the_window(tmp_path):
    values = gradient().astype(np.int16) + 100
    values[:6] = -2000
    path = write_dicom(tmp_path / "x.dcm", values, PixelPaddingValue=-2000)
    pixels = read_one(path).pixels
    assert pixels[:6].max() == 0
    assert pixels[6:].max() - pixels[6:].min() == 255


def test_dicom_without_pixels_is_refused(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = write_dicom(tmp_path / "x.dcm", gradient())
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(ValueError, match="without pixel data"):
        readers.read_images(path)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_nifti_slices_are_upright_and_empty_ones_left_out(tmp_path, name):
    volume = np.zeros((12, 16, 5), np.float32)
    volume[:, :, 1:4] = 40
    volume[9:, 2:6, 2] = 100  # on the right, towards the back
    volume[0, 0, 2] = np.nan
    images = readers.read_images(write_nifti(tmp_path / name, volume))
    assert [image.suffix for image in images] == ["#1", "#2", "#3"]
    pixels = images[1].pixels
    assert pixels.shape == (16, 12)
    # Right is on the left, the back is below.
    assert pixels[10:14, :3].min() == 255
    assert pixels[:10].max() < 255
    assert pixels[15, 11] == 0


def test_nifti_in_another_orientation_gives_the_same_slices(tmp_path):
    volume = np.random.default_rng(0).uniform(1, 9, (6, 7, 8))
    plain = readers.read_images(write_nifti(tmp_path / "a.nii", volume))
    flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned = readers.read_images(
        write_nifti(tmp_path / "b.nii", volume[::-1, ::-1].copy(), flipped)
    )
    for first, second in zip(plain, turned, strict=True):
        np.testing.assert_array_equal(first.pixels, second.pixels)


def test_truncated_nifti_is_refused(tmp_path):
    path = write_nifti(tmp_path / "x.nii", np.ones((8, 8, 8)))
    data = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "x.nii").write_bytes(data[:1000])
    with pytest.raises(ValueError, match="damaged NIfTI"):
        readers.read_images(path)
