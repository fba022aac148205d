"""Images of files that belong together, answered as one study."""

import os
from collections.abc import Iterable

from serving import client, image_files

BY = ("folder", "patient")


def combine(
    answers: Iterable[image_files.Answer], by: str
) -> list[image_files.Answer]:
    """Returns one answer per study, in the order of their first images.

    A file that holds several images, such as a volume, is a study. Of the
    other files a folder's are one; by patient instead, those are one that name
    the same patient, as DICOM files do, whatever their folders. Images without
    an answer are left out.

    Raises:
        ValueError: see `client.combine`.
    """
    studies: dict[tuple[str, str], list[image_files.Answer]] = {}
    for answer in answers:
        if by == "patient" and answer.patient:
            key = "patient", answer.patient
        elif answer.source:
            key = "file", answer.source
        else:
            key = "folder", os.path.dirname(answer.file) or "."
        studies.setdefault(key, []).append(answer)
    return [
        _combine(images[0].file if kind == "patient" else name, images)
        for (kind, name), images in studies.items()
    ]


def _combine(name: str, images: list[image_files.Answer]) -> image_files.Answer:
    found = [i.prediction for i in images if i.prediction and not i.error]
    if not found:
        return image_files.Answer(name, None, "none of its images is answered")
    combined = client.combine(found)
    return image_files.Answer(name, combined, None, num_images=len(found))
