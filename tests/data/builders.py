"""Images, files and data sets that the tests of this room make."""

import io

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from trainer.data.build import dataset, scan
from trainer.data.build.options import BuildOptions
from trainer.data.images import readers
from trainer.data.images.image import Image


def build(input_dir, output_dir, **settings):
    """A data set, built in this process unless told otherwise."""
    settings.setdefault("num_workers", 1)
    return dataset.build(
        BuildOptions(str(output_dir), str(input_dir), **settings)
    )


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
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(buffer))


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


def write_head(path, seed, size=48, image_format="PNG", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(make_head(seed, size=size))
    image.save(path, image_format, **options)


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


def save(path, image, image_format, **options):
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    image.save(path, image_format, **options)
    return str(path)


def read_one(path) -> Image:
    (image,) = readers.read_images(str(path))
    return image


def write_dicom(path, values, patient_id="PAT-SECRET-1", **elements):
    pydicom = pytest.importorskip("pydicom")
    from pydicom import uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientID = patient_id
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
    dataset.save_as(path, enforce_file_format=True)
    return str(path)


def write_nifti(path, volume, affine=None):
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    return str(path)
