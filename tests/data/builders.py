"""Images, files and data sets that the tests of this room make."""

import contextlib
import csv
import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from tests.samples import encode
from trainer.data.build import dataset, output, scan
from trainer.data.build.options import BuildOptions
from trainer.data.images import readers
from trainer.data.images.image import Image
from trainer.storage import buckets


def build(input_dir, output_dir, **settings):
    """A data set, built in this process unless told otherwise."""
    settings.setdefault("num_workers", 1)
    return dataset.build(
        BuildOptions(str(output_dir), str(input_dir), **settings)
    )


def read_files(directory) -> dict[str, bytes]:
    """All files below a folder, by their relative paths."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def read_rows(data_dir) -> list[dict[str, str]]:
    """What `images.csv` says of each image."""
    with open(data_dir / output.IMAGES_FILE, newline="") as file:
        return list(csv.DictReader(file))


def assert_same_files(first, second):
    first, second = read_files(first), read_files(second)
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


def upload(scans, bucket_name) -> str:
    """Copies a folder to `scans` of a bucket, and returns its address."""
    folder = buckets.Folder(f"gs://{bucket_name}/scans")
    for name, data in read_files(scans).items():
        folder.upload(data, name)
    return f"gs://{bucket_name}"


def make_head(seed: int, height: float = 0.0, size: int = 160) -> np.ndarray:
    """A slice of a head with texture inside a skull, at some height."""
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    generator = np.random.default_rng(seed)
    radius = np.hypot(rows / 0.9, columns / 0.75)
    # Folds change with height, as from slice to slice.
    below, above = (
        ndimage.gaussian_filter(generator.normal(size=(size, size)), size / 40)
        for _ in range(2)
    )
    folds = np.cos(height) * below + np.sin(height) * above
    image = np.where(radius < 0.85, 110 + 55 * folds / folds.std(), 0)
    image = np.where((radius > 0.9) & (radius < 1), 220, image)
    return np.clip(image, 0, 255).astype(np.uint8)


def as_jpeg(pixels, quality):
    data = encode(pixels, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


def resized(pixels, width, height):
    return np.asarray(PIL.Image.fromarray(pixels).resize((width, height)))


HEAD = make_head(0)
COPIES = {
    "byte copy": HEAD.copy(),
    "re-encoded": as_jpeg(HEAD, 60),
    "half the size": resized(HEAD, 80, 80),
    "other aspect": resized(HEAD, 120, 150),
    "brighter": np.clip(HEAD.astype(int) + 25, 0, 255).astype(np.uint8),
    "one pixel cropped": HEAD[1:, 1:].copy(),
}


def write_head(path, seed, size=48, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(make_head(seed, size=size)).save(path, **options)


def write_heads(
    folder, indices, names=("no_tumor", "tumor"), kind="png", **options
):
    """Different heads, in folders of two classes in turn."""
    for index in indices:
        path = folder / names[index % 2] / f"{index:02d}.{kind}"
        write_head(path, index, **options)


def make_facts(index, class_name, **changes):
    values = {
        "image_id": f"{class_name}/{index}.png",
        "suffix": "",
        "class_name": class_name,
        "split": "",
        "source_index": index,
        "patient_key": "",
        "sha256": f"{index:x}".ljust(64, "0"),
        "width": 100,
        "height": 100,
        "channels": 1,
        "source_format": "png",
        "bit_depth": 8,
        "quality": 0,
        "num_bytes": 5000,
        "file_sha256": "",
        "kept_format": "png",
        "training_bytes": (5000, 5000),
        "mean_brightness": 50.0,
        "border_brightness": 0.0,
    }
    return scan.ImageFacts(**{**values, **changes})


def gradient(height=24, width=32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows * 5 + columns * 3) % 256).astype(np.uint8)


def colour() -> np.ndarray:
    grey = gradient()
    return np.stack([grey, 255 - grey, grey // 2], axis=-1)


def read_one(data: bytes, **window) -> Image:
    """The only image of a file."""
    (image,) = readers.decode_images(data, **window)
    return image


def assert_unreadable(data: bytes, reason: str) -> str:
    """The sentence that refuses a file and matches a reason."""
    with pytest.raises(ValueError, match=reason) as info:
        readers.decode_images(data)
    return str(info.value)


@contextlib.contextmanager
def limits(max_bytes, max_seconds):
    """Notices memory and time that something takes too much of."""
    start = time.monotonic()
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < max_bytes and time.monotonic() - start < max_seconds


def bomb(image_format: str, width=30_000, height=30_000) -> bytes:
    """A small file whose header announces that many pixels."""
    if image_format == "TIFF":
        entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1)]
        entries += [(273, 8), (277, 1), (278, height), (279, 99)]
        body = b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
        head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
        return head + body + b"\0" * 100
    data = bytearray(encode(gradient(), image_format))
    if image_format == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        # The header has a checksum, which Pillow looks at.
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif image_format == "JPEG":
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    elif image_format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def make_dicom(
    values, *, syntax="", frames=None, without=(), **elements
) -> bytes:
    """A DICOM file, plain or with compressed frames as they are given."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom import encaps, uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = uid.UID(syntax or uid.ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientID = "PAT-SECRET-1"
    dataset.PatientName = "Secretname^Hidden"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    for name in without:
        delattr(dataset, name)
    if frames is not None:
        dataset.PixelData = encaps.encapsulate(frames)
    if frames is not None or syntax == uid.ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(
        buffer,
        implicit_vr=False,
        little_endian=syntax != uid.ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return buffer.getvalue()


def make_nifti(volume, affine=None) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4) if affine is None else affine
    return nibabel.Nifti1Image(volume, affine).to_bytes()
