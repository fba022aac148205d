"""How well an export tells images of its kind from others.

    python -m tests.benchmarks.out_of_distribution --version_dir=run/export/1 \\
        --data_dir=records [--images_dir=DIR]

The test images of `--data_dir` against sets that no model was trained on:
photographs that come with scikit-learn and matplotlib, whole and in parts,
chest-like phantoms, pages of text, noise and gradients, and textures. All are
made or installed, none is downloaded; `--images_dir` adds a set for each of
its folders of JPEG and PNG files. Shown per set: the area under the ROC curve
of the score, the share that is flagged, and the lowest score (1 is the
threshold).
"""

import io
import pathlib

import matplotlib.cbook
import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image, ImageDraw, ImageFilter
from sklearn import datasets, metrics

from trainer.data import input_pipeline
from trainer.export import signature

FLAGS = flags.FLAGS
flags.DEFINE_string("version_dir", None, "Exported version.", required=True)
flags.DEFINE_string("data_dir", None, "Its records.", required=True)
flags.DEFINE_string("images_dir", None, "Folders of further images.")
flags.DEFINE_integer("seed", 0, "Of what is drawn.")

BATCH_SIZE = 32


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def from_array(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def photographs(generator) -> list[Image.Image]:
    whole = [Image.fromarray(a) for a in datasets.load_sample_images().images]
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        whole.append(Image.open(file).convert("RGB"))
    images = list(whole)
    for image in whole:
        for _ in range(15):
            scale = generator.uniform(0.3, 0.9)
            width, height = (int(scale * side) for side in image.size)
            x = generator.integers(image.width - width)
            y = generator.integers(image.height - height)
            images.append(image.crop((x, y, x + width, y + height)))
    return images


def chest_phantoms(generator, count=40) -> list[Image.Image]:
    """Two dark lungs, spine, heart, ribs and diaphragm, of varied build."""
    images = []
    for _ in range(count):
        width, height = generator.integers(320, 640, 2)
        y, x = np.mgrid[0:height, 0:width]
        x, y = x / width - 0.5, y / height - 0.5
        body = np.abs(x) < generator.uniform(0.42, 0.5)
        values = generator.uniform(110, 170) * np.where(body, 1, 0.2)
        values += generator.uniform(30, 70) * np.exp(-((x / 0.06) ** 2))
        for side in (-1, 1):
            lung = (
                (x - side * generator.uniform(0.17, 0.23))
                / generator.uniform(0.11, 0.16)
            ) ** 2 + ((y + 0.02) / generator.uniform(0.28, 0.36)) ** 2
            values -= generator.uniform(60, 110) / (1 + np.exp(8 * (lung - 1)))
        heart = ((x - 0.05) / 0.16) ** 2 + ((y - 0.18) / 0.15) ** 2
        values += generator.uniform(40, 80) / (1 + np.exp(8 * (heart - 1)))
        for place in np.arange(-0.38, 0.3, 0.08):
            rib = (np.abs(y - place - x**2) < 0.012) & (np.abs(x) > 0.05)
            values += generator.uniform(8, 22) * rib * body
        values += 40 * (y - 0.42 > -0.1 * np.cos(8 * x))
        values += generator.normal(0, generator.uniform(2, 10), values.shape)
        blur = ImageFilter.GaussianBlur(float(generator.uniform(0.6, 2)))
        images.append(from_array(values).filter(blur))
    return images


def pages(generator, count=20) -> list[Image.Image]:
    images = []
    for i in range(count):
        image = Image.new("L", (500, 700), 255)
        draw = ImageDraw.Draw(image)
        for y in range(20, 680, int(generator.integers(12, 24))):
            letters = generator.choice(list("abcdefghij klmnop "), 70)
            draw.text((20, y), "".join(letters), fill=0)
        values = np.asarray(image)
        images.append(from_array(255 - values if i % 2 else values))
    return images


def noise(generator, count=24) -> list[Image.Image]:
    images = [from_array(np.full((200, 200), v)) for v in (0, 80, 160, 255)]
    images.append(from_array(np.tile(np.linspace(0, 255, 300), (300, 1))))
    for i in range(count):
        side = int(generator.integers(64, 400))
        mean, spread = generator.uniform((40, 5), (200, 80))
        image = from_array(generator.normal(mean, spread, (side, side)))
        if i % 4:
            blur = float(generator.uniform(0.5, 20))
            image = image.filter(ImageFilter.GaussianBlur(blur))
        images.append(image)
    return images


def textures(generator, count=24) -> list[Image.Image]:
    """Waves that cross, grey and coloured."""
    y, x = np.mgrid[0:256, 0:256] / 256
    images = []
    for i in range(count):
        values = np.zeros((256, 256, 3))
        for _ in range(6):
            fx, fy = generator.normal(0, 20, 2)
            phase = generator.uniform(0, 6)
            wave = np.sin(2 * np.pi * (fx * x + fy * y) + phase)
            colour = generator.uniform(0, 50, 3) if i % 2 else 25
            values += wave[..., np.newaxis] * colour
        images.append(from_array(values + 128))
    return images


def find_sets() -> dict[str, list[bytes]]:
    generator = np.random.default_rng(FLAGS.seed)
    makers = (photographs, chest_phantoms, pages, noise, textures)
    sets = {
        maker.__name__: [encode(image) for image in maker(generator)]
        for maker in makers
    }
    if FLAGS.images_dir:
        for folder in sorted(pathlib.Path(FLAGS.images_dir).iterdir()):
            sets[folder.name] = [p.read_bytes() for p in folder.iterdir()]
    return sets


def main(argv):
    del argv
    loaded = tf.saved_model.load(FLAGS.version_dir)
    serve = loaded.signatures[signature.SERVING_DEFAULT]

    def score(images):
        parts = []
        for i in range(0, len(images), BATCH_SIZE):
            batch = tf.constant(images[i : i + BATCH_SIZE])
            outputs = serve(**{signature.IMAGE_BYTES: batch})
            valid = outputs[signature.VALID].numpy()
            scores = outputs[signature.OUT_OF_DISTRIBUTION].numpy()
            parts.append(scores[valid])
        return np.concatenate(parts)

    info = input_pipeline.read_dataset_info(FLAGS.data_dir)
    files = input_pipeline.split_files(FLAGS.data_dir, info, "test")
    known = score(list(input_pipeline.iterate_encoded(files)))
    print(f"test: {len(known)} images, {np.mean(known > 1):.1%} flagged")
    for name, images in find_sets().items():
        unlike = score(images)
        truth = np.repeat([0, 1], [len(known), len(unlike)])
        area = metrics.roc_auc_score(truth, np.concatenate([known, unlike]))
        print(
            f"{name}: {len(unlike)} images, AUC {area:.4f}, "
            f"{np.mean(unlike > 1):.1%} flagged, lowest {unlike.min():.2f}"
        )


if __name__ == "__main__":
    app.run(main)
