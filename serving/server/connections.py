"""HTTP connections: how many there are, and how long a request's head takes.

uvicorn accepts any number and waits for ever for the first request.
"""

import time

import h11
from absl import logging
from uvicorn.protocols.http import h11_impl

MAX_CONNECTIONS = 512
HEADER_TIMEOUT_S = 10.0


class Connection(h11_impl.H11Protocol):
    """One connection; beyond the limit, the longest idle one makes room."""

    _waits_since = 0.0
    _timeout = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) <= MAX_CONNECTIONS:
            return
        idle = [each for each in self.connections if each.is_idle]
        # There is one, unless it closes: this connection has sent nothing.
        idle = [each for each in idle if not each.transport.is_closing()]
        refused = min(idle, key=lambda each: each._waits_since, default=self)
        refused.transport.abort()
        logging.log_every_n_seconds(
            logging.WARNING,
            "More than %d connections: those that ask nothing are closed",
            1,
            MAX_CONNECTIONS,
        )

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._timeout is not None or self.timeout_keep_alive_task

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._timeout is None:
            self._wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._waits_since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._waits_since = time.monotonic()
        self._timeout = self.loop.call_later(
            HEADER_TIMEOUT_S, self.transport.abort
        )

    def _stop_waiting(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
