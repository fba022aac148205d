"""The page at `/`: drop an image, see what the model says of it.

The page itself asks the REST API, like any client. What a browser cannot do is
here: to read DICOM, NIfTI or TIFF as training does.
"""

import asyncio
import json
import os
import pathlib
import sys

from serving import status_codes
from serving.server import page_reader, served_models

MODELS_PATH = "/page/models"
READ_PATH = "/page/images"
# Processes at a time, and address space of each, of which the libraries take a
# quarter.
MAX_READERS = 2
MAX_MEMORY_BYTES = 2**30
READ_TIMEOUT_S = 10
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
_ROOT = pathlib.Path(__file__).parents[2]
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


class Reader:
    """Reads files in processes of their own, of which there are few."""

    def __init__(self, models: served_models.ServedModels):
        """Takes what is served."""
        self._models = models
        self._turns = asyncio.Semaphore(MAX_READERS)

    async def read_images(self, name: str, data: bytes | bytearray) -> bytes:
        """Returns the images of a file as JSON.

        Args:
            name: of the model that will be asked: a file becomes the pixels
                that it would have had in its training.
            data: a file of any format that Lightbox trains on.

        Returns:
            `{"images": [{"suffix": …, "format": "png" or "jpeg", "b64": …}],
            "num_images": …}`, with at most `page_reader.MAX_IMAGES` of them.

        Raises:
            StatusError: the file cannot be read; the message says why.
        """
        options = self._models.get(name, None, None).reading if name else {}
        async with self._turns:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "serving.server.page_reader"),
                *(json.dumps(dict(options)), str(MAX_MEMORY_BYTES)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                # The libraries' threads would count as memory.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                cwd=_ROOT,
            )
            try:
                answer, errors = await asyncio.wait_for(
                    process.communicate(data), READ_TIMEOUT_S
                )
            except asyncio.TimeoutError as error:
                raise status_codes.StatusError(
                    "DEADLINE_EXCEEDED",
                    f"to read it takes more than {READ_TIMEOUT_S} seconds; "
                    f"{page_reader.HINT}",
                ) from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode:
            lines = errors.decode(errors="replace").splitlines()
            reason = "it is damaged, or takes too much memory"
            if process.returncode == 1 and lines:
                reason = lines[-1]
            raise status_codes.invalid_argument(reason)
        return answer
