"""Work that is shared among processes."""

import os
import signal
import time

import pytest

from trainer.data.build import parallel


def square(number: int) -> int:
    return number * number


def die_on_13(number: int) -> int:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def test_results_come_in_order_of_the_items():
    items = range(101)
    assert list(parallel.map_ordered(square, items, 2)) == [
        square(i) for i in items
    ]


def test_killed_worker_is_told_with_the_item_it_worked_on():
    work = parallel.map_ordered(
        die_on_13, range(30), 2, describe=lambda item: f"file {item}"
    )
    with pytest.raises(OSError, match=r"died on file 13; .* than 2, or leave"):
        list(work)


def test_as_many_workers_as_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 6})
    assert parallel.default_num_workers() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert parallel.default_num_workers() == 1
