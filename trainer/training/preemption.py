"""SIGTERM: the run saves at the next step boundary and asks to be restarted."""

import signal
from collections.abc import Callable

# What TensorFlow's own preemption handler exits with; schedulers restart a
# job on any code but 0.
EXIT_CODE = 42


class Preempted(SystemExit):
    """Ends the process with `EXIT_CODE`, after everything is saved."""

    def __init__(self):
        super().__init__(EXIT_CODE)


def watch_sigterm() -> Callable[[], bool]:
    """Takes SIGTERM over; returns a function that says whether it has come."""
    received = False

    def remember(signal_number, frame):
        del signal_number, frame
        nonlocal received
        received = True

    signal.signal(signal.SIGTERM, remember)
    return lambda: received
