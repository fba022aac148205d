"""Reads the images of a file for the page, in a process that can be killed.

    python -m serving.server.page_reader '{"slice_axis": 2}' MAX_BYTES < FILE

It gets so many bytes of address space. Prints what `page.Reader` returns, or
one line that says why not and ends with 1. TensorFlow is not imported.
"""

import base64
import json
import os
import resource
import sys

from trainer.data.images import readers

# A volume has hundreds of slices; the page shows the first.
MAX_IMAGES = 64
# Of their PNG or JPEG bytes together; at least one is shown.
MAX_ANSWER_BYTES = 64 * 2**20
HINT = "ask with `serving.predict`"


def read(data: bytes, options: dict) -> dict:
    """Returns the first images and how many there are.

    Raises:
        OSError, ValueError: it cannot be read; the message says why.
    """
    try:
        images = readers.decode_images(data, **options)
        shown, num_bytes = [], 0
        for image in images[:MAX_IMAGES]:
            num_bytes += len(image.encoded)
            if shown and num_bytes > MAX_ANSWER_BYTES:
                break
            encoded = base64.b64encode(image.encoded).decode()
            shown.append(
                {"suffix": image.suffix, "format": image.format, "b64": encoded}
            )
    except (MemoryError, OSError, ValueError) as error:
        causes = (error, error.__cause__)
        if any(isinstance(each, MemoryError) for each in causes):
            raise ValueError(
                f"it takes more memory than the page has for a file; {HINT}"
            ) from error
        raise
    return {"num_images": len(images), "images": shown}


def main() -> None:
    os.nice(10)  # Who asks the models goes first.
    max_bytes = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    try:
        answer = read(sys.stdin.buffer.read(), json.loads(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(" ".join(str(error).split()))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
