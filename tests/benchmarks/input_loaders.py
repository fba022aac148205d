"""Tells how many augmented images a second one loader delivers.

    PYTHON input_loaders.py LOADER DIRECTORY

`input_pipeline.py` runs it in an environment of the loader's own, without
Lightbox. Each does what its documentation shows, and is grey where it can be.
"""

import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import turns

IMAGE_SIZE = 224
BATCH_SIZE = 32
WARM_UP_BATCHES = 4
SECONDS = 6.0
# On two cores none was faster with more, or with processes.
NUM_THREADS = 2
# The defaults of `trainer.data.augmentation.Augmentation`.
ROTATION_DEGREES, SHIFT, ZOOM = 15.0, 0.08, 0.12


def lightbox(data_dir: str) -> Iterator:
    from trainer.data import augmentation, input_pipeline

    info = input_pipeline.read_dataset_info(data_dir)
    dataset = input_pipeline.make_train_dataset(
        input_pipeline.split_files(data_dir, info, "train"),
        shard_sizes=info.shard_sizes("train"),
        image_size=IMAGE_SIZE,
        channels=info.channels,
        augmentation=augmentation.Augmentation(ROTATION_DEGREES, SHIFT, ZOOM),
        global_batch_size=BATCH_SIZE,
        per_replica_batch_size=BATCH_SIZE,
        seed=0,
    )
    return iter(dataset)


def image_data_generator(image_dir: str) -> Iterator:
    """One process, as its users call it."""
    import tensorflow as tf

    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=ROTATION_DEGREES,
        width_shift_range=SHIFT,
        height_shift_range=SHIFT,
        zoom_range=ZOOM,
        horizontal_flip=True,
    )
    return generator.flow_from_directory(
        image_dir,
        target_size=(IMAGE_SIZE, IMAGE_SIZE),
        batch_size=BATCH_SIZE,
        class_mode="binary",
    )


def keras_layers(image_dir: str) -> Iterator:
    """image_dataset_from_directory with Keras' augmentation layers."""
    import keras
    import tensorflow as tf

    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(ROTATION_DEGREES / 360),
            keras.layers.RandomTranslation(SHIFT, SHIFT),
            keras.layers.RandomZoom(ZOOM),
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


def aucmedi(image_dir: str) -> Iterator:
    """Flips, rotates and scales, in its own ranges; it has no shift."""
    from aucmedi import DataGenerator, ImageAugmentation

    paths = list_jpegs(image_dir)
    generator = DataGenerator(
        [str(path.relative_to(image_dir).with_suffix("")) for path in paths],
        image_dir,
        labels=np.eye(2)[np.arange(len(paths)) % 2],
        image_format="jpg",
        batch_size=BATCH_SIZE,
        resize=(IMAGE_SIZE, IMAGE_SIZE),
        data_aug=ImageAugmentation(
            flip=True,
            rotate=True,
            scale=True,
            brightness=False,
            contrast=False,
            saturation=False,
            hue=False,
        ),
        # Nothing that Lightbox leaves to the device, and one channel as well.
        standardize_mode=None,
        grayscale=True,
        shuffle=True,
    )
    while True:
        yield from (generator[i] for i in range(len(paths) // BATCH_SIZE))


def spdl(image_dir: str) -> Iterator:
    """Its own decoder needs libraries of FFmpeg, which no package brings."""
    from spdl.pipeline import PipelineBuilder

    paths = list_jpegs(image_dir)
    load = make_opencv_loader(paths)
    rng = np.random.default_rng(0)

    def draw():
        while True:
            yield from rng.permutation(paths)

    def load_batch(chosen):
        views, labels = zip(*(load(path, rng) for path in chosen), strict=True)
        return np.stack(views), np.array(labels)

    pipeline = (
        PipelineBuilder()
        .add_source(draw())
        .aggregate(BATCH_SIZE)
        .pipe(load_batch, concurrency=NUM_THREADS)
        .add_sink(2)
        .build(num_threads=NUM_THREADS)
    )
    with pipeline.auto_stop():
        yield from pipeline


def grain(image_dir: str) -> Iterator:
    from grain import MapDataset, ReadOptions
    from grain.transforms import RandomMap

    paths = list_jpegs(image_dir)
    load = make_opencv_loader(paths)

    class Load(RandomMap):
        def random_map(self, path, rng):
            return load(path, rng)

    dataset = MapDataset.source(paths).seed(0).shuffle().repeat()
    dataset = dataset.random_map(Load()).to_iter_dataset(
        ReadOptions(NUM_THREADS, prefetch_buffer_size=2 * BATCH_SIZE)
    )
    return iter(dataset.batch(BATCH_SIZE))


def dali(image_dir: str) -> Iterator:
    """CPU operators alone, all in one affine map as well."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(
        batch_size=BATCH_SIZE, num_threads=NUM_THREADS, device_id=None, seed=0
    )
    def make_pipeline():
        jpegs, labels = fn.readers.file(
            file_root=image_dir, random_shuffle=True
        )
        images = fn.decoders.image(jpegs, output_type=types.GRAY)
        shape = fn.cast(fn.shapes(images)[:2], dtype=types.FLOAT)
        scale = fn.stack(shape[1], shape[0]) / IMAGE_SIZE
        center = fn.stack(shape[1], shape[0]) / 2
        zoom = fn.random.uniform(range=(1 - ZOOM, 1 + ZOOM))
        mirror = 1 - 2 * fn.random.coin_flip()
        # From an output pixel to the input's.
        matrix = fn.transforms.translation(
            offset=(-IMAGE_SIZE / 2, -IMAGE_SIZE / 2)
        )
        matrix = fn.transforms.scale(
            matrix, scale=fn.stack(scale[0] * mirror, scale[1]) / zoom
        )
        matrix = fn.transforms.rotation(
            matrix,
            angle=fn.random.uniform(
                range=(-ROTATION_DEGREES, ROTATION_DEGREES)
            ),
        )
        shift = fn.random.uniform(range=(-SHIFT, SHIFT), shape=2)
        matrix = fn.transforms.translation(
            matrix, offset=center + shift * center * 2
        )
        images = fn.warp_affine(
            images, matrix=matrix, size=(IMAGE_SIZE, IMAGE_SIZE), fill_value=0
        )
        return images, labels

    pipeline = make_pipeline()
    pipeline.build()
    while True:
        yield [output.as_array() for output in pipeline.run()]


def list_jpegs(image_dir: str) -> list[pathlib.Path]:
    return sorted(pathlib.Path(image_dir).glob("*/*.jpg"))


def make_opencv_loader(paths: list[pathlib.Path]) -> Callable:
    """Function of a path and a generator: one grey view, and its label."""
    import cv2

    cv2.setNumThreads(1)
    flags = cv2.IMREAD_GRAYSCALE
    # libjpeg decodes at half the size where that is large enough.
    if len(cv2.imread(str(paths[0]))) >= 2 * IMAGE_SIZE:
        flags = cv2.IMREAD_REDUCED_GRAYSCALE_2

    def load(path, rng):
        image = cv2.imread(str(path), flags)
        return warp(cv2, image, rng), path.parent.name

    return load


def warp(cv2, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotates, shifts, zooms, flips and resizes a square image; uint8."""
    size = len(image)
    if rng.random() < 0.5:
        image = cv2.flip(image, 1)
    matrix = cv2.getRotationMatrix2D(
        (size / 2, size / 2),
        rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES),
        rng.uniform(1 - ZOOM, 1 + ZOOM) * IMAGE_SIZE / size,
    )
    matrix[:, 2] += (IMAGE_SIZE - size) / 2
    matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2) * IMAGE_SIZE
    return cv2.warpAffine(image, matrix, (IMAGE_SIZE, IMAGE_SIZE))


def images_per_second(batches: Iterator) -> float:
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    num_batches = 0
    start = time.perf_counter()
    while (elapsed_s := time.perf_counter() - start) < SECONDS:
        next(batches)
        num_batches += 1
    return num_batches * BATCH_SIZE / elapsed_s


if __name__ == "__main__":
    batches = globals()[sys.argv[1]](sys.argv[2])
    turns.take(lambda: images_per_second(batches))
