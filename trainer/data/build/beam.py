"""The passes of `build_records` as Apache Beam pipelines, for many machines.

Each pass is one function over many items. Items and results travel through
files in a folder that all workers reach, so the graph of a pipeline stays
small however many images there are, and results come back in order without
filling the memory. Neither TensorFlow nor Beam's own file systems are needed.
"""

import functools
import io
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, TypeVar

import apache_beam
from apache_beam.options import pipeline_options

from trainer.data import records
from trainer.data.build import scan, shards, sources, training_images, wire
from trainer.storage import paths

Item = TypeVar("Item")
Result = TypeVar("Result")

# Files to read in one step of a worker.
CHUNK_SIZE = 64


class BeamRunner:
    """Reads and writes on the workers of a Beam runner."""

    def __init__(
        self,
        options: scan.ReadOptions,
        runner: str,
        beam_options: Sequence[str],
        folder: str,
    ):
        """Takes a folder for intermediate files that all workers reach.

        Raises:
            ValueError: if Beam refuses the name of its runner or its options.
        """
        self._options = options
        self._folder = folder
        try:
            self._beam_options = pipeline_options.PipelineOptions(
                [f"--runner={runner}", *beam_options]
            )
            apache_beam.Pipeline(options=self._beam_options)
        # Its parser exits with a usage page that names none of our flags.
        except (SystemExit, ValueError) as error:
            raise ValueError(
                f"Beam refuses --runner={runner} with --beam_options="
                f"{','.join(beam_options)} ({error})."
            ) from error

    def scan(
        self,
        files: Sequence[sources.Source],
        form: training_images.TrainingFormat,
        thumbnails: BinaryIO,
    ) -> tuple[list[scan.ImageFacts], list[scan.ScannedFile]]:
        """See `scan.scan_files`; what workers encode cannot wait here."""
        read = functools.partial(
            self.map_ordered,
            item_kind=tuple[int, sources.Source],
            result_kind=scan.ScannedFile,
        )
        return scan.scan_files(files, self._options, form, read, thumbnails)

    def write(
        self,
        directory: str,
        tasks: Sequence[shards.ShardTask],
        form: training_images.TrainingFormat,
    ) -> list[records.Shard]:
        """Writes shards, each by one worker, with the bytes of a local build.

        Raises:
            OSError: if the pipeline fails, or a file changed since the scan.
        """
        write = functools.partial(
            _encode_and_write,
            directory=directory,
            options=self._options,
            form=form,
        )
        return list(
            self.map_ordered(
                write, tasks, shards.ShardTask, records.Shard, chunk_size=1
            )
        )

    def map_ordered(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        item_kind: type[Item],
        result_kind: type[Result],
        chunk_size: int = CHUNK_SIZE,
    ) -> Iterator[Result]:
        """Yields `function(item)` for each item, in the order of the items.

        Args:
            function: picklable, and safe to repeat.
            items: of what `wire` knows.
            item_kind: their type.
            result_kind: that of what the function returns.
            chunk_size: items that one worker takes at a time.

        Raises:
            OSError: if the pipeline fails.
        """
        folder = paths.join(self._folder, uuid.uuid4().hex)
        # The items may name patients: they must not stay, whatever happens.
        try:
            num_chunks = 0
            iterator = iter(items)
            while chunk := list(itertools.islice(iterator, chunk_size)):
                path = paths.join(folder, f"items-{num_chunks:06d}")
                paths.write_atomically(path, wire.to_json(chunk))
                num_chunks += 1
            apply = functools.partial(
                _apply, function=function, folder=folder, kind=item_kind
            )
            self._run(apply, num_chunks)
            for index in range(num_chunks):
                data = paths.read_bytes(
                    paths.join(folder, f"results-{index:06d}")
                )
                yield from wire.from_json(list[result_kind], data)
        finally:
            paths.remove_folder(folder)

    def _run(self, apply: Callable[[int], None], num_chunks: int) -> None:
        try:
            with apache_beam.Pipeline(options=self._beam_options) as pipeline:
                # Without a shuffle, one worker would take all numbers.
                _ = (
                    pipeline
                    | apache_beam.Create(range(num_chunks))
                    | apache_beam.Reshuffle()
                    | apache_beam.Map(apply)
                )
        except Exception as error:
            # Runners wrap what a worker raised in exceptions of many kinds.
            reason = str(error).strip().splitlines()
            raise OSError(
                f"The Beam pipeline failed: {reason[0] if reason else error!r}"
            ) from error


def _apply(index: int, function: Callable, folder: str, kind: type) -> None:
    data = paths.read_bytes(paths.join(folder, f"items-{index:06d}"))
    items = wire.from_json(list[kind], data)
    path = paths.join(folder, f"results-{index:06d}")
    paths.write_atomically(path, wire.to_json(list(map(function, items))))


def _encode_and_write(
    task: shards.ShardTask,
    directory: str,
    options: scan.ReadOptions,
    form: training_images.TrainingFormat,
) -> records.Shard:
    def encode(file: shards.FileTask) -> list[shards.EncodedImage]:
        if task.split == "train":
            return shards.encode_training(file, options, form)
        return shards.encode_held_out(file, options)

    images = itertools.chain.from_iterable(map(encode, task.files))
    buffer = io.BytesIO()
    shard = shards.write_shard(
        buffer, task, images, form.channels, lambda _: None
    )
    paths.write_atomically(paths.join(directory, task.name), buffer.getvalue())
    return shard
