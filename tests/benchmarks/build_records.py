r"""Builds records and times it beside a plain Pillow loop.

    python -m tests.benchmarks.build_records

Both read the same JPEGs of 512 px, as whole processes in turn, in one run. The
loop does for each image, in one process, what has to be done: it decodes it,
hashes its pixels and makes a thumbnail, as a search for copies needs them, and
writes a tf.Example, scaled down and encoded for training and with the bytes of
the file for the rest. It writes with our own record writer, which spares it
the import of TensorFlow, and it finds no copies, leaks or shortcuts.

Then records of more and of ten times fewer small images are built, and the
peak memory of the largest process is compared.
"""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL.Image
from absl import app, flags

from tests.benchmarks.ratios import tell
from trainer.data import records, tfrecord

CLASS_NAMES = ("no_tumor", "tumor")
STORED_SIZE = 256


def write_jpegs(folder: str, num_images: int, size: int) -> None:
    """Writes random smooth grey images as colour JPEGs, all different."""
    rng = np.random.default_rng(0)
    for name in CLASS_NAMES:
        os.makedirs(os.path.join(folder, name))
    for number in range(num_images):
        image = rng.normal(0, 12, (size, size))
        for cells in (5, 13, 40):
            coarse = PIL.Image.fromarray(
                rng.normal(0, 40, (cells, cells)).astype(np.float32)
            )
            image += np.asarray(coarse.resize((size, size), 3))
        pixels = np.clip(128 + image, 0, 255).astype(np.uint8)
        path = os.path.join(folder, CLASS_NAMES[number % 2], f"{number}.jpg")
        PIL.Image.fromarray(pixels).convert("RGB").save(path, quality=90)


def run_pillow_loop(input_dir: str, output_dir: str) -> None:
    """The plain loop."""
    os.makedirs(output_dir)
    hashes, thumbnails = {}, []
    with (
        open(os.path.join(output_dir, "train"), "wb") as train_file,
        open(os.path.join(output_dir, "rest"), "wb") as rest_file,
    ):
        train = tfrecord.RecordWriter(train_file)
        rest = tfrecord.RecordWriter(rest_file)
        for label, name in enumerate(CLASS_NAMES):
            folder = os.path.join(input_dir, name)
            for file_name in sorted(os.listdir(folder)):
                with open(os.path.join(folder, file_name), "rb") as file:
                    data = file.read()
                pixels = np.asarray(PIL.Image.open(io.BytesIO(data)))
                if (pixels[..., :1] == pixels[..., 1:]).all():
                    pixels = np.ascontiguousarray(pixels[..., 0])
                sha256 = hashlib.sha256(pixels.data).hexdigest()
                hashes[sha256] = file_name
                image = PIL.Image.fromarray(pixels)
                thumbnails.append(
                    np.asarray(
                        image.convert("L").resize(
                            (64, 64), PIL.Image.Resampling.BOX
                        )
                    )
                )
                is_train = int(sha256[:8], 16) % 100 < 70
                if is_train:
                    image = image.resize(
                        (STORED_SIZE, STORED_SIZE),
                        PIL.Image.Resampling.BICUBIC,
                    )
                    buffer = io.BytesIO()
                    image.save(buffer, "JPEG", quality=95)
                    data = buffer.getvalue()
                example = records.make_example(
                    encoded=data,
                    image_format="jpeg",
                    height=image.height,
                    width=image.width,
                    channels=1,
                    image_id=f"{name}/{file_name}",
                    group=sha256,
                    sha256=sha256,
                    label=label,
                    class_name=name,
                )
                (train if is_train else rest).write(example)


def run(arguments: list[str]) -> tuple[float, int]:
    """Runs Python; returns seconds and peak KiB of its largest process."""
    measure = (
        "import resource, subprocess, sys; "
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measure, sys.executable, "-m", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, int(done.stdout)


def build(input_dir: str, output_dir: str) -> tuple[float, int]:
    return run(
        [
            "trainer.data.build_records",
            f"--input_dir={input_dir}",
            f"--output_dir={output_dir}",
        ]
    )


def compare_speed(directory: str, num_images: int, num_rounds: int) -> None:
    input_dir = os.path.join(directory, "large")
    write_jpegs(input_dir, num_images, 512)
    ratios = []
    for number in range(num_rounds):
        ours, _ = build(input_dir, os.path.join(directory, f"ours_{number}"))
        theirs, _ = run(
            [
                "tests.benchmarks.build_records",
                f"--loop_over={input_dir}",
                f"--loop_into={os.path.join(directory, f'loop_{number}')}",
            ]
        )
        ratios.append(theirs / ours)
    tell("Building records", "a loop over Pillow", ratios)


def compare_memory(directory: str, num_images: int) -> None:
    peaks = []
    for count in (num_images // 10, num_images):
        input_dir = os.path.join(directory, f"small_{count}")
        write_jpegs(input_dir, count, 96)
        _, peak = build(input_dir, os.path.join(directory, f"built_{count}"))
        peaks.append(peak)
        print(f"{count:,} images: {peak / 1024:.0f} MiB at most")
    print(f"{peaks[1] / peaks[0]:.2f} times the memory for 10 times the images")


def _define_flags() -> None:
    flags.DEFINE_integer("num_images", 4000, "JPEGs of 512 px.")
    flags.DEFINE_integer("num_rounds", 3, "Pairs of runs.")
    flags.DEFINE_integer("num_small_images", 10_000, "For the memory.")
    flags.DEFINE_string("loop_over", "", "Only run the Pillow loop, on this.")
    flags.DEFINE_string("loop_into", "", "Where that loop writes.")


def main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    if values.loop_over:
        run_pillow_loop(values.loop_over, values.loop_into)
        return
    with tempfile.TemporaryDirectory() as directory:
        compare_speed(directory, values.num_images, values.num_rounds)
        compare_memory(directory, values.num_small_images)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
