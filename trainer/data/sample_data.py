"""Writes a synthetic phantom data set to try Lightbox with.

    python -m trainer.data.sample_data --output_dir=sample_images

Class folders `no_tumor` and `tumor` hold PNG slices of heads that exist
nowhere: see `trainer.data.phantom`. What tells the classes apart is the lesion
and nothing else: both have the same contrasts, sizes and brightness, and the
numbers of the patients are shuffled.
"""

import functools
import math
import os
import sys
from typing import NamedTuple

import numpy as np
from absl import app, flags

from trainer import startup
from trainer.data import phantom
from trainer.data.build import parallel
from trainer.data.images.image import encode_png
from trainer.progress import Progress
from trainer.storage import paths

CLASS_NAMES = ("no_tumor", "tumor")
NUM_IMAGES = 600
IMAGE_SIZE = 128
SLICES_PER_PATIENT = 4
# Below that, a lesion is no more than a few pixels wide.
MIN_IMAGE_SIZE = 32
PATIENT_REGEX = r"(patient_\d+)"


class _Plan(NamedTuple):
    """What is to be drawn of one patient."""

    number: int
    label: int
    setting: phantom.Setting
    num_slices: int


def make_sample_data(
    output_dir: str,
    num_images: int = NUM_IMAGES,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    num_workers: int = 1,
) -> int:
    """Writes `output_dir/CLASS/patient_0007_slice_03.png`, half per class.

    The same arguments write the same bytes, whatever the number of workers.

    Returns:
        How many images it wrote.

    Raises:
        ValueError: if `output_dir` holds files, or a number is out of range.
    """
    _check(output_dir, num_images, image_size, seed)
    patients = _plan_patients(num_images, seed)
    for name in CLASS_NAMES:
        os.makedirs(os.path.join(output_dir, name), exist_ok=True)
    draw = functools.partial(
        _write_patient, output_dir=output_dir, image_size=image_size, seed=seed
    )
    num_written = 0
    with Progress(num_images, "drawing") as progress:
        for count in parallel.map_ordered(draw, patients, num_workers):
            num_written += count
            progress.update(count)
    return num_written


def _check(
    output_dir: str, num_images: int, image_size: int, seed: int
) -> None:
    if num_images < 2:
        raise ValueError(
            "--num_images must be at least 2, one per class. Received: "
            f"num_images={num_images}."
        )
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(
            f"--image_size must be at least {MIN_IMAGE_SIZE} pixels. Received: "
            f"image_size={image_size}."
        )
    if seed < 0:
        raise ValueError(f"--seed must not be negative. Received: seed={seed}.")
    if os.path.isfile(output_dir):
        raise ValueError(
            f"--output_dir={output_dir} is a file; name a new folder."
        )
    if os.path.isdir(output_dir) and os.listdir(output_dir):
        raise ValueError(
            f"--output_dir={output_dir} is not empty; name a new folder, or "
            "remove this one."
        )


def _plan_patients(num_images: int, seed: int) -> list[_Plan]:
    """What is to be drawn of each patient, alike for both classes."""
    rng = np.random.default_rng(seed)
    plans = []
    for label, count in enumerate(
        (num_images - num_images // 2, num_images // 2)
    ):
        num_patients = math.ceil(count / SLICES_PER_PATIENT)
        for setting in phantom.draw_settings(rng, num_patients):
            num_slices = min(SLICES_PER_PATIENT, count)
            count -= num_slices
            plans.append((label, setting, num_slices))
    # The number of a patient, and so the name of a file, must not tell.
    numbers = rng.permutation(len(plans)).tolist()
    return [
        _Plan(number, *plan)
        for number, plan in zip(numbers, plans, strict=True)
    ]


def _write_patient(
    plan: _Plan, output_dir: str, image_size: int, seed: int
) -> int:
    """Draws and writes the slices of one patient; returns how many."""
    rng = np.random.default_rng([seed, plan.number])
    patient = phantom.draw_patient(
        rng, plan.setting, plan.num_slices, bool(plan.label)
    )
    for index in range(plan.num_slices):
        pixels = phantom.draw_slice(patient, index, image_size, rng)
        name = f"patient_{plan.number:04d}_slice_{index:02d}.png"
        path = os.path.join(output_dir, CLASS_NAMES[plan.label], name)
        with paths.writing(path), open(path, "wb") as file:
            file.write(encode_png(pixels))
    return plan.num_slices


def _define_flags() -> None:
    flags.DEFINE_string(
        "output_dir", None, "Where the class folders go.", required=True
    )
    flags.DEFINE_integer(
        "num_images", NUM_IMAGES, "Images in both classes together."
    )
    flags.DEFINE_integer(
        "image_size", IMAGE_SIZE, "Height and width of an image, in pixels."
    )
    flags.DEFINE_integer("seed", 0, "Of everything that is drawn.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    try:
        num_written = make_sample_data(
            values.output_dir,
            values.num_images,
            values.image_size,
            values.seed,
            parallel.default_num_workers(),
        )
    except (ValueError, OSError) as error:
        sys.exit(f"sample_data: {error}")
    print(
        f"Wrote {num_written} images to {values.output_dir}; build_records "
        f"keeps patients together with --patient_regex='{PATIENT_REGEX}'."
    )


if __name__ == "__main__":
    _define_flags()
    startup.run(main)
