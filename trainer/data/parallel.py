"""One function over many items on all cores, in order and constant memory."""

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_SIZE = 8
# Chunks in flight for each worker: enough to keep it busy, few enough that
# results waiting for the one in front stay small.
CHUNKS_PER_WORKER = 3


def default_num_workers() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_workers: int,
) -> Iterator[Result]:
    """Yields `function(item)` for each item, in the order of the items.

    Args:
        function: picklable, and defined in a module that imports quickly.
        items: picklable.
        num_workers: processes; 1 stays in this one.

    Raises:
        OSError: if a worker dies, as when the memory runs out.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    # Spawned, not forked: the parent has threads once TensorFlow is imported.
    context = multiprocessing.get_context("spawn")
    items = iter(items)
    with concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_end_with_parent
    ) as executor:
        futures = collections.deque()
        try:
            while True:
                while len(futures) < num_workers * CHUNKS_PER_WORKER:
                    chunk = list(itertools.islice(items, CHUNK_SIZE))
                    if not chunk:
                        break
                    futures.append(executor.submit(_apply, function, chunk))
                if not futures:
                    return
                yield from futures.popleft().result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise OSError(
                "A worker process died; if the memory ran out, set a smaller "
                f"--num_workers than {num_workers}."
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _end_with_parent() -> None:
    """Lets no worker outlive a parent that is killed."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _apply(function: Callable[[Item], Result], chunk: list[Item]):
    return [function(item) for item in chunk]
