"""Waits for what a server does in its own time."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Fails unless the condition comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
