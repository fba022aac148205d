"""Prints how many images a second AUCMEDI's DataGenerator delivers.

    python aucmedi_loader.py IMAGE_DIR IMAGE_SIZE BATCH_SIZE

Runs in an environment of its own, with AUCMEDI and without Lightbox: see
`input_pipeline.py`. Only what both can do is switched on.
"""

import pathlib
import sys
import time

import numpy as np
from aucmedi import DataGenerator, ImageAugmentation


def main(image_dir: str, image_size: int, batch_size: int) -> None:
    paths = sorted(pathlib.Path(image_dir).glob("*/*.jpg"))
    augmentation = ImageAugmentation(
        flip=True,
        rotate=True,
        scale=True,
        brightness=False,
        contrast=False,
        saturation=False,
        hue=False,
    )
    generator = DataGenerator(
        [f"{path.parent.name}/{path.stem}" for path in paths],
        image_dir,
        labels=np.eye(2)[np.arange(len(paths)) % 2],
        image_format="jpg",
        batch_size=batch_size,
        resize=(image_size, image_size),
        data_aug=augmentation,
        # Nothing that Lightbox leaves to the device, and one channel as well.
        standardize_mode=None,
        grayscale=True,
        shuffle=True,
    )
    generator[0]
    num_batches = len(paths) // batch_size
    start = time.perf_counter()
    for index in range(num_batches):
        generator[index]
    elapsed_s = time.perf_counter() - start
    print(num_batches * batch_size / elapsed_s)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
