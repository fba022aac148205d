r"""Shows what a data set holds, as the network will see it.

    python -m trainer.data.inspect_records --data_dir=records

Prints counts and class balance, checks every record against `dataset.json`, and
draws a contact sheet: for each class, images as they are and, below each, as
augmented for training.
"""

import hashlib
import sys

import numpy as np
import PIL.Image
import PIL.ImageDraw
from absl import app, flags

from trainer import startup
from trainer.data import records
from trainer.storage import paths

TILE_SIZE = 128
_CAPTION_HEIGHT = 16


def check_shards(data_dir: str, info: records.DatasetInfo) -> None:
    """Raises ValueError if the checksum of a shard is another."""
    for shard in info.shards:
        path = paths.join(data_dir, shard.name)
        digest = hashlib.sha256(paths.read_bytes(path)).hexdigest()
        if digest != shard.sha256:
            raise ValueError(
                f"{path} is damaged: its sha256 is {digest}, "
                f"{records.DATASET_FILE} says {shard.sha256}. Copy it again, "
                "or build the records again."
            )


def read_samples(
    data_dir: str, info: records.DatasetInfo, num_samples: int
) -> dict[str, list[bytes]]:
    """The first training images of each class, as JPEG or PNG bytes."""
    import tensorflow as tf

    from trainer.data import input_pipeline

    files = input_pipeline.split_files(data_dir, info, "train")
    dataset = tf.data.TFRecordDataset(files).map(records.parse_example)
    samples = {name: [] for name in info.class_names}
    for example in dataset.as_numpy_iterator():
        of_class = samples[info.class_names[example["label"]]]
        if len(of_class) < num_samples:
            of_class.append(example["image"])
    return samples


def draw_sheet(
    samples: dict[str, list[bytes]], channels: int, seed: int
) -> PIL.Image.Image:
    """A row of plain and a row of augmented images for each class."""
    # Imported here: --help must not wait for TensorFlow.
    import tensorflow as tf

    from trainer.data import augmentation, preprocessing

    columns = max(len(images) for images in samples.values())
    block = _CAPTION_HEIGHT + 2 * TILE_SIZE
    sheet = PIL.Image.new("RGB", (columns * TILE_SIZE, block * len(samples)))
    drawing = PIL.ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(samples.items()):
        top = row * block
        drawing.text((4, top + 2), f"{name}: plain, then augmented")
        for column, encoded in enumerate(images):
            plain = preprocessing.prepare_image(encoded, TILE_SIZE, channels)
            augmented = augmentation.augment_image(
                preprocessing.decode_image(encoded, channels),
                tf.constant([seed, column], tf.int64),
                TILE_SIZE,
                augmentation.Augmentation(),
            )
            for place, tile in enumerate((plain, augmented)):
                corner = (
                    column * TILE_SIZE,
                    top + _CAPTION_HEIGHT + place * TILE_SIZE,
                )
                sheet.paste(_to_picture(tile.numpy()), corner)
    return sheet


def _to_picture(pixels: np.ndarray) -> PIL.Image.Image:
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return PIL.Image.fromarray(
        pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    ).convert("RGB")


def inspect(data_dir: str, sheet_path: str, num_samples: int, seed: int) -> str:
    """Checks a data set, draws its contact sheet, returns its description.

    Raises:
        FileNotFoundError: if `data_dir` has no `dataset.json`.
        ValueError: if a shard is missing or damaged, or holds something else
            than `dataset.json` says.
    """
    from trainer.data import input_pipeline

    info = input_pipeline.read_dataset_info(data_dir)
    check_shards(data_dir, info)
    input_pipeline.read_index(data_dir, info)
    samples = read_samples(data_dir, info, num_samples)
    with paths.open_atomically(sheet_path) as file:
        draw_sheet(samples, info.channels, seed).save(file, "PNG")
    return records.describe(info)


def _define_flags() -> None:
    flags.DEFINE_string(
        "data_dir", None, "Records that build_records wrote.", required=True
    )
    flags.DEFINE_string(
        "contact_sheet",
        "contact_sheet.png",
        "PNG file that the pictures go into.",
    )
    flags.DEFINE_integer("num_samples", 8, "Images per class.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the augmentation.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    startup.import_keras()
    try:
        description = inspect(
            values.data_dir,
            values.contact_sheet,
            values.num_samples,
            values.seed,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"inspect_records: {error}")
    print(description)
    print(f"All shards are whole. Pictures are in {values.contact_sheet}.")


if __name__ == "__main__":
    _define_flags()
    startup.run(main)
