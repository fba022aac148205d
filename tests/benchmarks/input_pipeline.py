"""How many augmented training images a second, beside what others deliver.

    make peers
    python -m tests.benchmarks.input_pipeline

All read the same 512 px colour JPEGs with grey content and deliver batches of
32 at 224 px, rotated, shifted, zoomed and flipped; Lightbox varies brightness
and contrast besides. It reads the records that `build_records` made of them
once, which is not counted: those that are fast enough for it to matter read
JPEGs of that size, too. They take turns, each in a process of its own, and the
median of their rounds counts. Those that are not installed are left out. On a
busy machine those lose most that use all cores.
"""

import os
import statistics
import sys
import tempfile

import numpy as np
from absl import app, flags
from PIL import Image

from tests.benchmarks import environments
from tests.benchmarks.ratios import tell
from trainer.data import phantom
from trainer.data.build import dataset, parallel
from trainer.data.build.options import BuildOptions

# Of what is measured: environment, function of `input_loaders`, what it reads.
CONTESTANTS = {
    "Lightbox": (environments.OURS, "lightbox", "records"),
    "Keras ImageDataGenerator": (
        environments.OURS,
        "image_data_generator",
        "images",
    ),
    "image_dataset_from_directory + layers": (
        environments.OURS,
        "keras_layers",
        "images",
    ),
    "AUCMEDI DataGenerator": ("aucmedi", "aucmedi", "images"),
    "SPDL, OpenCV": ("spdl", "spdl", "images"),
    "Grain, OpenCV": ("grain", "grain", "images"),
    "DALI on the CPU": ("dali", "dali", "images"),
    "SPDL, OpenCV, of small JPEGs": ("spdl", "spdl", "small"),
    "Grain, OpenCV, of small JPEGs": ("grain", "grain", "small"),
    "DALI on the CPU, of small JPEGs": ("dali", "dali", "small"),
}


def write_jpegs(directory: str, num_images: int) -> None:
    """Writes phantoms into class folders, large in colour and as in records."""
    rng = np.random.default_rng(0)
    for number, setting in enumerate(phantom.draw_settings(rng, num_images)):
        has_lesion = bool(number % 2)
        patient = phantom.draw_patient(rng, setting, 1, has_lesion)
        grey = Image.fromarray(phantom.draw_slice(patient, 0, 512, rng))
        small = grey.resize((256, 256), Image.Resampling.BOX)
        for name, image in (("images", grey.convert("RGB")), ("small", small)):
            folder = os.path.join(directory, name, f"class_{number % 2}")
            os.makedirs(folder, exist_ok=True)
            image.save(os.path.join(folder, f"{number:05d}.jpg"), quality=90)


def run(num_images: int, num_rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        write_jpegs(directory, num_images)
        # Nearly all for training: there must be something to validate on.
        dataset.build(
            BuildOptions(
                os.path.join(directory, "records"),
                os.path.join(directory, "images"),
                validation_fraction=0.05,
                test_fraction=0.05,
            )
        )
        contestants = {
            name: (environment, loader, os.path.join(directory, folder))
            for name, (environment, loader, folder) in CONTESTANTS.items()
            if environments.is_installed(environment)
        }
        rates = {name: [] for name in contestants}
        for _ in range(num_rounds):
            for name, (environment, *arguments) in contestants.items():
                script = environments.Script(
                    environment, "input_loaders.py", *arguments
                )
                rates[name].append(script.take_turn())
                # It would go on filling its buffers in the turns of others.
                script.end()
    cores = parallel.default_num_workers()
    print(f"{cores} cores, {num_images} images, {num_rounds} rounds")
    print_rates(rates)


def print_rates(rates: dict[str, list[float]]) -> None:
    """Prints median and range of each contestant, and the ratios to it."""
    print(f"{'images/s':<40}{'median':>8}{'lowest':>8}{'highest':>8}")
    for name, rounds in rates.items():
        median = statistics.median(rounds)
        print(f"{name:<40}{median:>8.0f}{min(rounds):>8.0f}{max(rounds):>8.0f}")
    ours = rates.pop("Lightbox")
    for name, rounds in rates.items():
        tell("Training batches", name, np.divide(ours, rounds).tolist())


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    try:
        run(flags.FLAGS.num_images, flags.FLAGS.num_rounds)
    except (ValueError, OSError) as error:
        sys.exit(f"input_pipeline: {error}")


if __name__ == "__main__":
    flags.DEFINE_integer("num_images", 1024, "JPEGs to read.", lower_bound=64)
    flags.DEFINE_integer("num_rounds", 3, "Turns of each.", lower_bound=1)
    app.run(main)
