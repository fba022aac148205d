"""SIGTERM: the run saves at the next step boundary and asks to be restarted."""

import contextlib
import signal
from collections.abc import Iterator

from absl import logging

from trainer import startup


class Preempted(SystemExit):
    """Ends the process, after everything is saved."""

    def __init__(self):
        super().__init__(startup.PREEMPTED)


class SigtermWatch:
    """Takes SIGTERM over for the rest of the process.

    While a block is in `deferred`, the signal is only remembered: calling the
    watch tells whether it has come. Elsewhere there is nothing that would have
    to be saved, and it ends the process at once.
    """

    def __init__(self):
        self._received = False
        self._is_deferred = False
        signal.signal(signal.SIGTERM, self._receive)

    def __call__(self) -> bool:
        return self._received

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block SIGTERM is left to who asks for it.

        One that came after the last question ends the process when the block
        has ended.
        """
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self._received:
            self._stop()

    def _receive(self, signal_number, frame):
        del signal_number, frame
        self._received = True
        if not self._is_deferred:
            self._stop()

    def _stop(self):
        logging.warning("Stopped by SIGTERM; the same command continues.")
        raise Preempted
