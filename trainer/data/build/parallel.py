"""One function over many items on all cores, in order and constant memory."""

import collections
import concurrent.futures
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types
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
# What a worker does: it has not started, waits, or has begun the item of this
# place among all, so that who is killed leaves its place behind.
_IDLE, _WAITING = -2, -1
# Spawned, not forked: the parent has threads once TensorFlow is imported.
_CONTEXT = multiprocessing.get_context("spawn")
# Of this process, if it is a worker.
_worker = types.SimpleNamespace()
# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def default_num_workers() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_workers: int,
    describe: Callable[[Item], str] | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` for each item, in the order of the items.

    Args:
        function: picklable, of a module that imports quickly.
        items: picklable.
        num_workers: processes; one is this process.
        describe: how an item is called if its worker dies.

    Raises:
        OSError: if a worker dies, as when the memory runs out.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    items = iter(items)
    chunks = collections.deque()
    begun = _CONTEXT.Array("q", [_IDLE] * num_workers)

    def name_lost() -> str:
        # Its pool is gone, and the other workers said goodbye.
        in_work = {
            first + i: item
            for _, first, chunk in chunks
            for i, item in enumerate(chunk)
        }
        lost = [in_work[place] for place in begun.get_obj() if place in in_work]
        return ", ".join(map(describe, lost)) if describe else ""

    with (
        _explained_death(num_workers, name_lost),
        _start_executor(num_workers, begun) as pool,
    ):
        first = 0
        try:
            while True:
                while len(chunks) < num_workers * CHUNKS_PER_WORKER:
                    chunk = list(itertools.islice(items, CHUNK_SIZE))
                    if not chunk:
                        break
                    future = pool.submit(_apply, function, chunk, first)
                    chunks.append((future, first, chunk))
                    first += len(chunk)
                if not chunks:
                    return
                yield from chunks[0][0].result()
                chunks.popleft()
        finally:
            for future, *_ in chunks:
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


def _start_executor(
    num_workers: int, begun=None
) -> concurrent.futures.Executor:
    return concurrent.futures.ProcessPoolExecutor(
        num_workers,
        mp_context=_CONTEXT,
        initializer=_start_worker,
        initargs=(begun,),
    )


@contextlib.contextmanager
def _explained_death(
    num_workers: int, name_lost: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    try:
        yield
    except concurrent.futures.process.BrokenProcessPool as error:
        lost = name_lost()
        raise OSError(
            f"A worker process died{lost and f' on {lost}'}; if the memory ran "
            f"out, set a smaller --num_workers than {num_workers}"
            f"{lost and ', or leave the file out'}."
        ) from error


def _start_worker(begun) -> None:
    _end_with_parent()
    _keep_freed_memory()
    if begun is None:
        return
    _worker.begun = begun
    with begun.get_lock():
        _worker.number = list(begun).index(_IDLE)
        begun[_worker.number] = _WAITING
    signal.signal(signal.SIGTERM, _say_goodbye)


def _say_goodbye(*_) -> None:
    """Of a worker that is ended since another one died."""
    # Without the lock, which that one may have held.
    _worker.begun.get_obj()[_worker.number] = _WAITING
    os._exit(1)


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


def _apply(function: Callable[[Item], Result], chunk: list[Item], first: int):
    results, begun = [], _worker.begun.get_obj()
    for place, item in enumerate(chunk, first):
        begun[_worker.number] = place
        results.append(function(item))
    begun[_worker.number] = _WAITING
    return results
