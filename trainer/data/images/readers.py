"""One file -> images: which reader a file is for.

The content decides what a file is, never its extension. The same function
serves `build_records` and `serving.predict`, so a scan that a client sends has
the pixels it would have had in training. TensorFlow is not imported: workers
and REST clients start quickly without it.
"""

from trainer.data.images import pillow
from trainer.data.images.image import NIFTI_VERSIONS, Image
from trainer.storage import paths

_GZIP = b"\x1f\x8b"


def read_images(path: str, **options) -> list[Image]:
    """The images of a file on disk; for the options see `decode_images`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: see `decode_images`.
    """
    return decode_images(paths.read_bytes(path), **options)


def decode_images(
    data: bytes,
    window_center: float | None = None,
    window_width: float | None = None,
    slice_axis: int = 2,
) -> list[Image]:
    """Reads every image of a file: one, or the slices of a volume.

    Args:
        data: JPEG, PNG, BMP, GIF (first frame), TIFF (every page), another of
            `pillow.FORMATS`, DICOM (every frame) or NIfTI (every slice that
            is not empty).
        window_center: middle of the window for values of more than 8 bits,
            in the units of the file.
        window_width: its width; both or neither are given.
        slice_axis: axis that a NIfTI volume is cut along: 0 sagittal, 1
            coronal, 2 axial.

    Raises:
        ValueError: if it cannot be read as an image. The message says why,
            and leaves it to the caller to name the file.
    """
    check_window(window_center, window_width)
    window = None
    if window_center is not None:
        window = (window_center, window_width)
    if not data:
        raise ValueError("the file is empty")
    kind = medical_kind(data)
    # Imported here: most users have neither pydicom nor nibabel.
    try:
        if kind == "NIfTI":
            from trainer.data.images import nifti

            return nifti.read_images(data, window, slice_axis)
        if kind == "DICOM":
            from trainer.data.images import dicom

            return dicom.read_images(data, window)
    except ImportError as error:
        raise ValueError(
            f"a {kind} file needs `pip install lightbox[medical]` to be read"
        ) from error
    return pillow.read_images(data, window)


def check_window(
    window_center: float | None, window_width: float | None
) -> None:
    """Raises ValueError unless both are given, or neither."""
    if (window_center is None) != (window_width is None):
        raise ValueError(
            "window_center and window_width go together. Received: "
            f"window_center={window_center}, window_width={window_width}."
        )
    if window_width is not None and window_width <= 0:
        raise ValueError(
            f"window_width must be positive. Received: {window_width}."
        )


def medical_kind(data: bytes) -> str:
    """What the bytes look like: "DICOM", "NIfTI" or neither, ""."""
    if data[:2] == _GZIP or data[:4] in NIFTI_VERSIONS:
        return "NIfTI"
    is_dicom = data[128:132] == b"DICM" or (
        # Without the preamble, a file starts with group 2 or 8.
        data[:4] in (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0")
        or (data[:2] == b"\x08\0" and data[4:6].isupper())
    )
    return "DICOM" if is_dicom else ""
