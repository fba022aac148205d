"""What the requests of one server may take together: memory and threads.

A request is charged for its bytes as they arrive and as they unpack, over
either protocol. Large ones have threads of their own, so that small ones are
answered meanwhile.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from concurrent import futures

from serving import status_codes

# Of all requests that are under way. More get UNAVAILABLE, and a client that
# comes back later.
MAX_PENDING_BYTES = 2**30
# Of each request; so many of these are under way as there are connections.
FREE_BYTES = 2**20
# What a request becomes takes at most so many times what it may have.
MAX_GROWTH = 3
MAX_INSTANCES = 100_000
# More than what `serving.client` sends at a time.
LARGE_BYTES = 64 * 2**20
NUM_THREADS = 16
# After a large request, so that what it was made of is gone.
TRIM_AFTER_S = 1.0
# While Python copies or parses so much, all other threads wait.
NUM_LARGE_THREADS = 1


class Limits:
    """Shared by the servers of both protocols."""

    def __init__(self, max_request_bytes: int):
        """Takes a request's largest size, sent and unpacked."""
        self.max_request_bytes = max_request_bytes
        self.pending_bytes = 0
        self.lock = threading.Lock()
        self._small, self._large, self._loading = (
            futures.ThreadPoolExecutor(number, thread_name_prefix=name)
            for number, name in (
                (NUM_THREADS, "request"),
                (NUM_LARGE_THREADS, "large-request"),
                (1, "loading"),
            )
        )

    def submit(
        self,
        charge: "Charge",
        work: Callable[[], bytes],
        is_large: bool = False,
        loads: bool = False,
    ) -> futures.Future:
        """Calls `work` in a thread; the charge ends when that does.

        The charge outlives a client that has stopped waiting. What loads
        models has a thread of its own.
        """

        def call() -> bytes:
            try:
                return work()
            except status_codes.StatusError as error:
                code, message = error.code, error.message
            # Not that one, which keeps what it is about in memory.
            raise status_codes.StatusError(code, message)

        is_large = is_large or charge.num_bytes > LARGE_BYTES
        threads = self._large if is_large else self._small
        future = (self._loading if loads else threads).submit(call)
        future.add_done_callback(lambda _: charge.close())
        return future


class Charge:
    """What one request holds."""

    def __init__(self, limits: Limits):
        self.num_bytes = 0
        self._limits = limits
        self._counted = 0  # in `limits.pending_bytes`

    def add(self, num_bytes: int) -> None:
        """Charges more bytes.

        Raises:
            StatusError: the request is too large, or all of them are.
        """
        self.num_bytes += num_bytes
        limits = self._limits
        if self.num_bytes > limits.max_request_bytes:
            raise too_large(limits.max_request_bytes)
        more = max(self.num_bytes - FREE_BYTES, 0) - self._counted
        with limits.lock:
            if more > 0 and limits.pending_bytes + more > MAX_PENDING_BYTES:
                raise status_codes.StatusError(
                    "UNAVAILABLE", "Too many large requests are under way."
                )
            limits.pending_bytes += more
            self._counted += more

    def replace(self, num_bytes: int) -> None:
        """Charges these bytes in place of those before."""
        self.add(num_bytes - self.num_bytes)

    def close(self) -> None:
        """Ends the charge."""
        with self._limits.lock:
            self._limits.pending_bytes -= self._counted
            self._counted = 0
        if self.num_bytes > LARGE_BYTES:
            trim = threading.Timer(TRIM_AFTER_S, return_free_memory)
            trim.daemon = True
            trim.start()


def return_free_memory() -> None:
    """Gives what was freed back to the system, where the C library is glibc.

    It keeps much of it otherwise: after forty messages of 200 MB, 690 MB.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def too_large(max_request_bytes: int) -> status_codes.StatusError:
    """The refusal of a request of more bytes."""
    return status_codes.StatusError(
        "RESOURCE_EXHAUSTED",
        f"A request must have at most {max_request_bytes} bytes.",
    )


def check_growth(num_bytes: int, max_request_bytes: int) -> None:
    """Raises StatusError if a request would become more than it may.

    Args:
        num_bytes: what it takes once its values are objects.
        max_request_bytes: how many it may have as it is sent.
    """
    if num_bytes > MAX_GROWTH * max_request_bytes:
        raise status_codes.StatusError(
            "RESOURCE_EXHAUSTED",
            "The values of a request must fit into "
            f"{MAX_GROWTH * max_request_bytes} bytes of memory: send fewer.",
        )


def check_instances(number: int) -> None:
    """Raises StatusError if a request has more instances than it may."""
    if number > MAX_INSTANCES:
        raise status_codes.StatusError(
            "RESOURCE_EXHAUSTED",
            f"A request must have at most {MAX_INSTANCES} instances.",
        )
