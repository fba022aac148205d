"""How far long work is: a bar on a terminal, a line a minute in a log."""

import logging as python_logging
import sys
import time

import tqdm
from absl import logging

_LINE_EVERY_S = 60.0


class Progress:
    """What is done of a total, with the time that the rest will take.

    A context. Work that takes less than a minute leaves nothing in a log.
    """

    def __init__(
        self,
        total: int,
        what: str,
        unit: str = "images",
        *,
        done: int = 0,
        is_shown: bool = True,
    ):
        """Starts to measure the time.

        Args:
            total: of what is to be done.
            what: is going on, a word or two.
            unit: of what is counted; "B" for bytes.
            done: of it, before this process began.
            is_shown: False for work that nobody waits for.
        """
        self._total, self._what, self._unit = total, what, unit
        self._done, self._new = done, 0
        self._start = self._last_line = time.monotonic()
        self._is_shown = is_shown
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            leave=False,
            dynamic_ncols=True,
            # None: unless on a terminal.
            disable=None if is_shown else True,
        )

    def __enter__(self) -> "Progress":
        if not self._bar.disable:
            logging.get_absl_handler().addFilter(self._make_room)
        return self

    def __exit__(self, *unused_exception: object) -> None:
        logging.get_absl_handler().removeFilter(self._make_room)
        self._bar.close()

    def update(self, count: int) -> None:
        """Counts what has been done, up to the total."""
        count = min(count, self._total - self._done)
        self._done += count
        self._new += count
        self._bar.update(count)
        now = time.monotonic()
        if (
            self._is_shown
            and self._bar.disable
            and now - self._last_line > _LINE_EVERY_S
        ):
            self._last_line = now
            print(self._line(now - self._start), file=sys.stderr, flush=True)

    def leave_out(self, count: int) -> None:
        """Takes what need not be done out of the total."""
        self._total -= count
        self._bar.total = self._total
        self._bar.refresh()

    def _line(self, seconds: float) -> str:
        shown = tqdm.tqdm.format_sizeof if self._unit == "B" else "{:,}".format
        left_s = seconds * (self._total - self._done) / max(1, self._new)
        return (
            f"{time.strftime('%H:%M:%S')}  {self._what}: {shown(self._done)} "
            f"of {shown(self._total)} {self._unit}, "
            f"{tqdm.tqdm.format_interval(left_s)} left"
        )

    def _make_room(self, _: python_logging.LogRecord) -> bool:
        """Takes the bar away for a line of the log; an update draws it."""
        self._bar.clear()
        return True
