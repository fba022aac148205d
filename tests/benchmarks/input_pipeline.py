"""How many augmented training images a second, beside what others deliver.

    python -m tests.benchmarks.input_pipeline
    python -m tests.benchmarks.input_pipeline --aucmedi_python=ENV/bin/python

All read the same 512 px colour JPEGs with grey content and deliver batches of
32 at 224 px. Lightbox reads the records that `build_records` made of them once,
which is not counted. The others rotate, shift, zoom and flip (AUCMEDI:
flips, rotates and scales); Lightbox varies brightness and contrast besides. The
contestants take turns, and the median of their rounds counts. On a busy machine
Lightbox loses most: it uses all cores, ImageDataGenerator and AUCMEDI one.

AUCMEDI pins what Lightbox does not, so it stays in an environment of its own:
`python -m venv ENV && ENV/bin/pip install aucmedi`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

from tests.benchmarks.ratios import tell
from trainer.data import augmentation, input_pipeline, phantom
from trainer.data.build import dataset, parallel
from trainer.data.build.options import BuildOptions

JPEG_SIZE = 512
IMAGE_SIZE = 224
BATCH_SIZE = 32
WARM_UP_BATCHES = 4
AUGMENTATION = augmentation.Augmentation()


def write_jpegs(image_dir: str, num_images: int) -> None:
    """Writes phantoms as colour JPEGs into two class folders."""
    rng = np.random.default_rng(0)
    for number, setting in enumerate(phantom.draw_settings(rng, num_images)):
        has_lesion = bool(number % 2)
        patient = phantom.draw_patient(rng, setting, 1, has_lesion)
        pixels = phantom.draw_slice(patient, 0, JPEG_SIZE, rng)
        folder = os.path.join(image_dir, "tumor" if has_lesion else "no_tumor")
        os.makedirs(folder, exist_ok=True)
        image = Image.fromarray(pixels).convert("RGB")
        image.save(os.path.join(folder, f"{number:05d}.jpg"), quality=90)


def lightbox_batches(data_dir: str) -> Iterator:
    info = input_pipeline.read_dataset_info(data_dir)
    dataset = input_pipeline.make_train_dataset(
        input_pipeline.split_files(data_dir, info, "train"),
        shard_sizes=info.shard_sizes("train"),
        image_size=IMAGE_SIZE,
        channels=info.channels,
        augmentation=AUGMENTATION,
        global_batch_size=BATCH_SIZE,
        per_replica_batch_size=BATCH_SIZE,
        seed=0,
    )
    return iter(dataset)


def generator_batches(image_dir: str) -> Iterator:
    """Keras' ImageDataGenerator, one process, as its users call it."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=AUGMENTATION.rotation_degrees,
        width_shift_range=AUGMENTATION.shift_fraction,
        height_shift_range=AUGMENTATION.shift_fraction,
        zoom_range=AUGMENTATION.zoom_fraction,
        horizontal_flip=AUGMENTATION.horizontal_flip,
    )
    return generator.flow_from_directory(
        image_dir,
        target_size=(IMAGE_SIZE, IMAGE_SIZE),
        batch_size=BATCH_SIZE,
        class_mode="binary",
    )


def layers_batches(image_dir: str) -> Iterator:
    """image_dataset_from_directory with Keras' augmentation layers."""
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(AUGMENTATION.rotation_degrees / 360),
            keras.layers.RandomTranslation(
                AUGMENTATION.shift_fraction, AUGMENTATION.shift_fraction
            ),
            keras.layers.RandomZoom(AUGMENTATION.zoom_fraction),
        ]
    )
    dataset = keras.utils.image_dataset_from_directory(
        image_dir,
        image_size=(IMAGE_SIZE, IMAGE_SIZE),
        batch_size=BATCH_SIZE,
        verbose=False,
    )
    dataset = dataset.repeat().map(
        lambda images, labels: (layers(images, training=True), labels),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return iter(dataset.prefetch(tf.data.AUTOTUNE))


def images_per_second(batches: Iterator, num_images: int) -> float:
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    num_batches = max(1, num_images // BATCH_SIZE)
    start = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    return num_batches * BATCH_SIZE / (time.perf_counter() - start)


def aucmedi_images_per_second(python: str, image_dir: str) -> float:
    script = os.path.join(os.path.dirname(__file__), "aucmedi_loader.py")
    result = subprocess.run(
        [python, script, image_dir, str(IMAGE_SIZE), str(BATCH_SIZE)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(result.stdout.split()[-1])


def make_contestants(
    image_dir: str, data_dir: str, num_images: int, aucmedi_python: str
) -> dict[str, Callable[[], float]]:
    """What is measured, by name; each call is one round."""
    contestants = {
        # Many times as fast, so it runs longer to be timed as well.
        "Lightbox": lambda: images_per_second(
            lightbox_batches(data_dir), 10 * num_images
        ),
        "Keras ImageDataGenerator": lambda: images_per_second(
            generator_batches(image_dir), num_images
        ),
        "image_dataset_from_directory + layers": lambda: images_per_second(
            layers_batches(image_dir), num_images
        ),
    }
    if aucmedi_python:
        contestants["AUCMEDI DataGenerator"] = lambda: (
            aucmedi_images_per_second(aucmedi_python, image_dir)
        )
    return contestants


def run(num_images: int, num_rounds: int, aucmedi_python: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        image_dir = os.path.join(directory, "images")
        data_dir = os.path.join(directory, "records")
        write_jpegs(image_dir, num_images)
        # Nearly all for training: there must be something to validate on.
        dataset.build(
            BuildOptions(
                data_dir,
                image_dir,
                validation_fraction=0.05,
                test_fraction=0.05,
            )
        )
        contestants = make_contestants(
            image_dir, data_dir, num_images, aucmedi_python
        )
        rates = {name: [] for name in contestants}
        for _ in range(num_rounds):
            for name, measure in contestants.items():
                rates[name].append(measure())
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


def _define_flags() -> None:
    flags.DEFINE_integer("num_images", 1024, "JPEGs to read.", lower_bound=64)
    flags.DEFINE_integer("num_rounds", 3, "Turns of each.", lower_bound=1)
    flags.DEFINE_string(
        "aucmedi_python",
        "",
        "Python of an environment with AUCMEDI; left out if not given.",
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    try:
        run(values.num_images, values.num_rounds, values.aucmedi_python)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"input_pipeline: {error}")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
