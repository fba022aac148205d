"""What tests of servers and clients do again and again."""

import time
from collections.abc import Callable

import pytest

from serving import client


def wait_for(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Fails unless the condition comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def error_of(
    target: str, name: str = "m", image: bytes = b"a", **options
) -> client.ServerError:
    """Returns what a client raises that asks for a prediction in vain."""
    with (
        client.Client(target, name, **options) as asked,
        pytest.raises(client.ServerError) as caught,
    ):
        asked.predict([image])
    return caught.value
