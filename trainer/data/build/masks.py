"""Masks that lie beside their images, as `scan_mask.png` beside `scan.png`.

They are no images to classify, and their outlines give the label away. A file
is one if its name ends in `mask`, `seg` or `segmentation` and the rest names
another file of its folder (`x_mask.png` or `x_mask_1.png` beside `x.png`,
`x_seg.nii.gz` beside `x_flair.nii.gz`), or if it lies in a folder of that name
and a file beside this folder, or in another one there, is called as it is.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence

from trainer.data.build import sources

_WORD = r"(?:masks?|segs?|segmentations?)"
_ENDING = re.compile(rf"(.+?)[-_. ]+{_WORD}([-_. ]?\d+)?")
# Ends a name that others begin with, or a folder that has them in it or in
# those below: no file has it in its own.
_STARTS = "/"
_BELOW = "//"


def set_apart(
    files: Sequence[sources.Source],
) -> tuple[list[sources.Source], list[sources.Source]]:
    """Images and their masks; what belongs together has a `sources.CASE`."""
    indices = range(len(files))
    maybe_masks = {i for i in indices if any(_images_of(files[i]))}
    named = collections.defaultdict(list)
    for i in indices if maybe_masks else ():
        if i not in maybe_masks:
            for key in _names_of(files[i]):
                named[key].append(i)
    kin, masks = collections.defaultdict(set), set()
    for i in sorted(maybe_masks):
        key = next((key for key in _images_of(files[i]) if key in named), None)
        if key:
            masks.add(i)
            kin[i].add(sources.MASK)
            for member in (i, *named[key]):
                kin[member].add(sources.CASE + "/".join(key))
    tied = [
        dataclasses.replace(file, kin=(*file.kin, *sorted(kin[i])))
        if i in kin
        else file
        for i, file in enumerate(files)
    ]
    return (
        [file for i, file in enumerate(tied) if i not in masks],
        [file for i, file in enumerate(tied) if i in masks],
    )


def _images_of(file: sources.Source) -> Iterator[tuple[str, str]]:
    """Keys of `_names_of` that images have if a file is their mask."""
    if re.search(_WORD, file.class_name.lower()):
        return
    folder, stem = _split(file)
    ending = _ENDING.fullmatch(stem)
    image_stem = ending[1] if ending else stem
    if ending:
        yield folder, image_stem
        if not ending[2]:
            yield folder, image_stem + _STARTS
    if re.fullmatch(_WORD, os.path.basename(folder).lower()):
        yield os.path.dirname(folder) + _BELOW, image_stem


def _names_of(file: sources.Source) -> Iterator[tuple[str, str]]:
    folder, stem = _split(file)
    yield folder, stem
    yield folder + _BELOW, stem
    yield os.path.dirname(folder) + _BELOW, stem
    for separator in re.finditer("[-_. ]", stem):
        yield folder, stem[: separator.start()] + _STARTS


def _split(file: sources.Source) -> tuple[str, str]:
    """The folder of a file, and its name without extensions."""
    folder, name = os.path.split(file.path)
    stem = os.path.splitext(name.lower().removesuffix(".gz"))[0]
    return folder, stem
