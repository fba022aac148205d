"""DICOM and NIfTI -> pixels as a radiologist sees them.

pydicom (with pylibjpeg) and nibabel do the decoding and are imported when the
first such file comes: they are the extra `medical`.
"""

from trainer.data.images import dicom, nifti, readers


def read_images(
    data: bytes, window: tuple[float, float] | None, slice_axis: int
) -> list[readers.Image]:
    """Reads every frame of a DICOM file or every slice of a NIfTI volume.

    Pixels that are not square stay as they are, as in other tools that make
    pictures of slices: models resize their input anyway.

    Args:
        data: the file.
        window: (center, width) in units of the file, or None.
        slice_axis: see `readers.read_images`.

    Raises:
        ValueError: if it cannot be read. The message says why, and repeats
            nothing of the header that could name a patient.
    """
    is_gzip = data[:2] == b"\x1f\x8b"
    is_nifti = is_gzip or data[:4] in readers.NIFTI_HEADER_SIZES
    kind = "NIfTI" if is_nifti else "DICOM"
    try:
        if is_nifti:
            return nifti.read_images(data, window, slice_axis)
        return dicom.read_images(data, window)
    except ImportError as error:
        raise ValueError(
            f"a {kind} file needs `pip install lightbox[medical]` to be read"
        ) from error
