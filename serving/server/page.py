"""The page at `/`: drop an image, see what the model says of it.

The page itself asks the REST API, like any client. What a browser cannot do is
here: to read DICOM, NIfTI or TIFF as training does.
"""

import base64
import json
import pathlib

from serving import status_codes
from serving.server import served_models
from trainer.data.images import readers

MODELS_PATH = "/page/models"
READ_PATH = "/page/images"
# A volume has hundreds of slices; the page shows the first.
MAX_IMAGES = 64
HEADERS = {
    # Nothing from elsewhere, and no other page around this one.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_FOLDER = pathlib.Path(__file__).parent / "page_files"
# Path -> content and type.
FILES = {
    "/": ((_FOLDER / "page.html").read_bytes(), "text/html"),
    "/page/page.css": ((_FOLDER / "page.css").read_bytes(), "text/css"),
    "/page/page.js": ((_FOLDER / "page.js").read_bytes(), "text/javascript"),
}


def list_models(models: served_models.ServedModels) -> dict:
    """Returns the class names of each model's newest version, by its name."""
    class_names = {}
    for name in models.names:
        try:
            class_names[name] = models.get(name, None, None).class_names
        except status_codes.StatusError:  # No version of it has loaded.
            class_names[name] = []
    return {"models": class_names}


def read_images(
    models: served_models.ServedModels, name: str, data: bytes
) -> bytes:
    """Returns the images of a file as JSON.

    Args:
        models: what is served.
        name: of the model that will be asked: a file becomes the pixels that
            it would have had in its training.
        data: a file of any format that Lightbox trains on.

    Returns:
        `{"images": [{"suffix": …, "format": "png" or "jpeg", "b64": …}],
        "num_images": …}`, with at most `MAX_IMAGES` of them.

    Raises:
        StatusError: the file cannot be read; the message says why.
    """
    options = models.get(name, None, None).reading if name else {}
    try:
        images = readers.decode_images(data, **options)
    except (OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise status_codes.invalid_argument(message) from error
    return json.dumps(
        {
            "num_images": len(images),
            "images": [
                {
                    "suffix": image.suffix,
                    "format": image.format,
                    "b64": base64.b64encode(image.encoded).decode(),
                }
                for image in images[:MAX_IMAGES]
            ],
        }
    ).encode()
