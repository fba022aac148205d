"""The passes of `build_records` as Apache Beam pipelines, for many machines.

Each pass is one function over many items. Items and results travel through
files in a folder that all workers reach, so the graph of a pipeline stays
small however many images there are, and results come back in order without
filling the memory. Beam's file systems read and write local paths and, with
their extras installed, `gs://` and others. TensorFlow is not needed.
"""

import functools
import itertools
import operator
import os
import pickle
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, TypeVar

from trainer.data import records
from trainer.data.build import scan, shards, sources, training_images
from trainer.storage import paths

Item = TypeVar("Item")
Result = TypeVar("Result")

# Files to read in one step of a worker.
CHUNK_SIZE = 64


def _import_beam():
    """The package, or a sentence that says how to get it."""
    try:
        import apache_beam
    except ImportError as error:
        raise ValueError(
            "--runner needs Apache Beam: install it with "
            "`pip install 'lightbox[beam]'`."
        ) from error
    return apache_beam


def _join(folder: str, name: str) -> str:
    return posixpath.join(folder, name)


def read_bytes(path: str) -> bytes:
    """The bytes of a file on any file system that Beam knows."""
    from apache_beam.io import filesystem, filesystems

    # Never unpacked on the way: the readers know what they read.
    with filesystems.FileSystems.open(
        path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED
    ) as file:
        return file.read()


def write_whole(path: str, write: Callable) -> object:
    """Calls `write` with an open file that gets its name once it is whole.

    A worker may repeat what another has begun: each writes a file of its own.
    """
    from apache_beam.io import filesystem, filesystems

    systems = filesystems.FileSystems
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with systems.create(
        temporary, compression_type=filesystem.CompressionTypes.UNCOMPRESSED
    ) as file:
        result = write(file)
    if systems.exists(path):
        systems.delete([path])
    systems.rename([temporary], [path])
    return result


def _write_pickle(path: str, value: object) -> None:
    write_whole(path, lambda file: file.write(pickle.dumps(value)))


def _apply(index: int, function: Callable, folder: str) -> None:
    items = pickle.loads(read_bytes(_join(folder, f"items-{index:06d}")))
    results = [function(item) for item in items]
    _write_pickle(_join(folder, f"results-{index:06d}"), results)


class BeamRunner:
    """Reads and writes on the workers of a Beam runner."""

    def __init__(
        self,
        options: scan.ReadOptions,
        runner: str,
        beam_options: Sequence[str],
        folder: str,
    ):
        """Checks the options of Beam.

        Args:
            options: how files are read.
            runner: name of a Beam runner, for example "direct" or "dataflow".
            beam_options: for example `--region=europe-west4`.
            folder: for intermediate files; all workers must reach it.

        Raises:
            ValueError: if Beam is not installed, or refuses its options.
        """
        self._beam = _import_beam()
        from apache_beam.options import pipeline_options

        self._options = options
        self._folder = folder
        try:
            self._beam_options = pipeline_options.PipelineOptions(
                [f"--runner={runner}", *beam_options]
            )
            self._beam.Pipeline(options=self._beam_options)
        # Its parser exits with a usage page that names none of our flags.
        except (SystemExit, ValueError) as error:
            raise ValueError(
                f"Beam refuses --runner={runner} with --beam_options="
                f"{','.join(beam_options)} ({error})."
            ) from error

    def scan(
        self,
        found: Sequence[sources.Source],
        form: training_images.TrainingFormat,
        thumbnails: BinaryIO,
    ) -> tuple[list[scan.ImageFacts], list[scan.ScannedFile]]:
        """See `scan.scan_files`."""
        return scan.scan_files(
            found,
            self._options,
            form,
            self.map_ordered,
            thumbnails,
            # What workers encode cannot wait here.
            spool=None,
            report_progress=lambda _: None,
            read_bytes=read_bytes,
        )

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
        return list(self.map_ordered(write, tasks, chunk_size=1))

    def map_ordered(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        chunk_size: int = CHUNK_SIZE,
    ) -> Iterator[Result]:
        """Yields `function(item)` for each item, in the order of the items.

        Args:
            function: picklable, and safe to repeat.
            items: picklable.
            chunk_size: items that one worker takes at a time.

        Raises:
            OSError: if the pipeline fails.
        """
        folder = _join(self._folder, uuid.uuid4().hex)
        _make_folder(folder)
        # The items may name patients: they must not stay, whatever happens.
        try:
            num_chunks = 0
            iterator = iter(items)
            while chunk := list(itertools.islice(iterator, chunk_size)):
                _write_pickle(_join(folder, f"items-{num_chunks:06d}"), chunk)
                num_chunks += 1
            self._run(
                functools.partial(_apply, function=function, folder=folder),
                num_chunks,
            )
            for index in range(num_chunks):
                data = read_bytes(_join(folder, f"results-{index:06d}"))
                yield from pickle.loads(data)
        finally:
            delete_folder(folder)

    def _run(self, apply: Callable[[int], None], num_chunks: int) -> None:
        beam = self._beam
        try:
            with beam.Pipeline(options=self._beam_options) as pipeline:
                # Without a shuffle, one worker would take all numbers.
                _ = (
                    pipeline
                    | beam.Create(range(num_chunks))
                    | beam.Reshuffle()
                    | beam.Map(apply)
                )
        except Exception as error:
            # Runners wrap what a worker raised in exceptions of many kinds.
            reason = str(error).strip().splitlines()
            raise OSError(
                f"The Beam pipeline failed: {reason[0] if reason else error!r}"
            ) from error


def _make_folder(folder: str) -> None:
    from apache_beam.io import filesystems

    if not filesystems.FileSystems.exists(folder):
        filesystems.FileSystems.mkdirs(folder)


def delete_folder(folder: str) -> None:
    if not paths.is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    from apache_beam.io import filesystems

    # Stores have no folders that could be deleted.
    found = filesystems.FileSystems.match([_join(folder, "**")])[0]
    if found.metadata_list:
        filesystems.FileSystems.delete([m.path for m in found.metadata_list])


def list_files(folder: str) -> list[str]:
    """Paths of all files in a folder, relative to it.

    Raises:
        FileNotFoundError: if it holds none.
    """
    from apache_beam.io import filesystems

    prefix = folder.rstrip("/") + "/"
    found = filesystems.FileSystems.match([prefix + "**"])[0].metadata_list
    if not found:
        raise FileNotFoundError(
            f"--input_dir={folder} holds no files; it must hold a folder of "
            "images per class, or train, validation and test folders."
        )
    return sorted(metadata.path.removeprefix(prefix) for metadata in found)


def _encode_and_write(
    task: shards.ShardTask,
    directory: str,
    options: scan.ReadOptions,
    form: training_images.TrainingFormat,
) -> records.Shard:
    def encode(file: shards.FileTask) -> list[shards.EncodedImage]:
        if task.split == "train":
            return shards.encode_training(file, options, form, read_bytes)
        return shards.encode_held_out(file, options, read_bytes)

    images = itertools.chain.from_iterable(map(encode, task.files))
    return write_whole(
        _join(directory, task.name),
        lambda file: shards.write_shard(
            file, task, images, form.channels, lambda _: None
        ),
    )


def fetch(directory: str, names: Iterable[str], local_dir: str) -> None:
    """Copies those of the files that exist."""
    from apache_beam.io import filesystems

    for name in names:
        path = _join(directory, name)
        if filesystems.FileSystems.exists(path):
            with open(os.path.join(local_dir, name), "wb") as file:
                file.write(read_bytes(path))


def publish(
    local_dir: str, building: str, output_dir: str, shard_names: Sequence[str]
) -> None:
    """Moves shards into a directory, and copies what describes them.

    As in `output`, `dataset.json` leaves first and comes last.

    Args:
        local_dir: folder of `dataset.json` and the reports.
        building: where the shards are.
        output_dir: where all of them go.
        shard_names: of the new shards.
    """
    from apache_beam.io import filesystems

    systems = filesystems.FileSystems
    dataset_path = _join(output_dir, records.DATASET_FILE)
    if systems.exists(dataset_path):
        systems.delete([dataset_path])
    pattern = _join(output_dir, "*.tfrecord")
    old = [m.path for m in systems.match([pattern])[0].metadata_list]
    if old:
        systems.delete(old)
    systems.rename(
        [_join(building, name) for name in shard_names],
        [_join(output_dir, name) for name in shard_names],
    )
    names = sorted(os.listdir(local_dir))
    names.remove(records.DATASET_FILE)
    for name in [*names, records.DATASET_FILE]:
        with open(os.path.join(local_dir, name), "rb") as file:
            data = file.read()
        write_whole(
            _join(output_dir, name), operator.methodcaller("write", data)
        )
    delete_folder(building)
