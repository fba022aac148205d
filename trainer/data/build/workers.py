"""The passes of `build_records` on the cores of this machine."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from trainer.data import records
from trainer.data.build import parallel, scan, shards, sources, training_images
from trainer.progress import Progress


class LocalRunner:
    """Reads and writes in processes, with progress bars on a terminal.

    Training images are encoded while they are scanned, and wait in a file: a
    second decoding would take longer.
    """

    def __init__(
        self, options: scan.ReadOptions, num_workers: int, spool_file: BinaryIO
    ):
        """Takes an empty file for the waiting images."""
        self._options = options
        self._map_ordered = functools.partial(
            parallel.map_ordered, num_workers=num_workers
        )
        self._spool = training_images.Spool(spool_file)

    def scan(
        self,
        files: Sequence[sources.Source],
        form: training_images.TrainingFormat,
        thumbnails: BinaryIO,
    ) -> tuple[list[scan.ImageFacts], list[scan.ScannedFile]]:
        """See `scan.scan_files`."""
        with Progress(len(files), "reading", "files") as progress:
            return scan.scan_files(
                files,
                self._options,
                form,
                functools.partial(self._map_ordered, describe=scan.name_file),
                thumbnails,
                self._spool,
                progress.update,
            )

    def write(
        self,
        directory: str,
        tasks: Sequence[shards.ShardTask],
        form: training_images.TrainingFormat,
    ) -> list[records.Shard]:
        """Writes shards into an existing directory.

        Raises:
            ValueError: if a file changed since it was scanned.
            OSError: if the disk is full, or a worker died.
        """
        num_images = sum(len(f.members) for task in tasks for f in task.files)
        held_out = [
            file
            for task in tasks
            if task.split != "train"
            for file in task.files
            if not shards.keeps_file(file)
        ]
        encoded = self._map_ordered(
            functools.partial(shards.encode_held_out, options=self._options),
            held_out,
            describe=lambda task: task.members[0].facts.image_id,
        )
        with Progress(num_images, "writing") as progress:
            return [
                self._write_shard(
                    directory, task, form, encoded, progress.update
                )
                for task in tasks
            ]

    def _write_shard(
        self,
        directory: str,
        task: shards.ShardTask,
        form: training_images.TrainingFormat,
        encoded_held_out: Iterator[list[shards.EncodedImage]],
        report_progress: Callable[[int], None],
    ) -> records.Shard:
        def images() -> Iterator[shards.EncodedImage]:
            for file in task.files:
                if task.split == "train":
                    for m in file.members:
                        encoded = self._spool.read(m.scan_index, form.channels)
                        yield shards.make_training_image(m, encoded, form)
                elif shards.keeps_file(file):
                    # Sending it to a worker and back would take longer.
                    yield from shards.encode_held_out(file, self._options)
                else:
                    yield from next(encoded_held_out)

        with open(os.path.join(directory, task.name), "wb") as file:
            shard = shards.write_shard(
                file, task, images(), form.channels, report_progress
            )
            file.flush()
            os.fsync(file.fileno())
        return shard
