"""One function over many items on all cores, in order and constant memory."""

import collections
import concurrent.futures
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_SIZE = 8
# Chunks in flight for each worker: enough to keep it busy, few enough that
# results waiting for the one in front stay small.
CHUNKS_PER_WORKER = 3
# Freed memory that a worker keeps, and the largest piece of it.
KEPT_BYTES = 64 << 20
LARGEST_KEPT_BYTES = 32 << 20
# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def default_num_workers() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """Yields `function(item)` for each item, in the order of the items.

    Both are picklable, and the function's module imports quickly; one worker is
    this process.

    Raises:
        OSError: if a worker dies, as when the memory runs out.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    items = iter(items)
    futures = collections.deque()
    with _explained_death(num_workers), _start_executor(num_workers) as pool:
        try:
            while True:
                while len(futures) < num_workers * CHUNKS_PER_WORKER:
                    chunk = list(itertools.islice(items, CHUNK_SIZE))
                    if not chunk:
                        break
                    futures.append(pool.submit(_apply, function, chunk))
                if not futures:
                    return
                yield from futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()


def run_beside(
    function: Callable[..., Result], *arguments, num_workers: int
) -> Callable[[], Result]:
    """Calls a picklable function in a process while the caller goes on.

    Returns:
        Waits for what the function returns; raises OSError if its process died.
        With one worker the call is made here, at once.
    """
    if num_workers <= 1:
        result = function(*arguments)
        return lambda: result
    executor = _start_executor(1)
    future = executor.submit(function, *arguments)
    executor.shutdown(wait=False)

    def wait() -> Result:
        with _explained_death(num_workers):
            return future.result()

    return wait


def _start_executor(num_workers: int) -> concurrent.futures.Executor:
    # Spawned, not forked: the parent has threads once TensorFlow is imported.
    return concurrent.futures.ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )


@contextlib.contextmanager
def _explained_death(num_workers: int) -> Iterator[None]:
    try:
        yield
    except concurrent.futures.process.BrokenProcessPool as error:
        raise OSError(
            "A worker process died; if the memory ran out, set a smaller "
            f"--num_workers than {num_workers}."
        ) from error


def _start_worker() -> None:
    _end_with_parent()
    _keep_freed_memory()


def _end_with_parent() -> None:
    """Lets no worker outlive a parent that is killed."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _keep_freed_memory() -> None:
    """Keeps the memory of one image for the next, instead of giving it back.

    Getting it again page by page takes a fifth of the time of a small image.
    """
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # glibc
            mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
            mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def _apply(function: Callable[[Item], Result], chunk: list[Item]):
    return [function(item) for item in chunk]
