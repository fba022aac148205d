"""A bar where somebody watches, lines where nobody does."""

import io
import re

from absl import logging

from trainer import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_gets_a_line_a_minute_with_the_time_left(monkeypatch, capsys):
    seconds = iter([0, 59, 90, 100, 160])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with progress.Progress(30, "features", done=3) as bar:
        bar.leave_out(2)
        for count in (3, 5, 1, 99):
            bar.update(count)
    lines = [line[10:] for line in capsys.readouterr().err.splitlines()]
    # Eight of 25 images took 90 seconds.
    assert lines == [
        "features: 11 of 28 images, 03:11 left",
        "features: 28 of 28 images, 00:00 left",
    ]


def test_terminal_gets_a_bar_that_makes_room_for_the_log(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.Progress(4_000, "copying", "B") as bar:
        bar.update(1_000)
        bar._bar.refresh()
        assert re.search(r"copying:  25%.*1.00k/4.00k.*<", terminal.getvalue())
        record = logging.get_absl_logger().makeRecord(
            "", 0, "", 0, "", (), None
        )
        assert all(f(record) for f in logging.get_absl_handler().filters)
        assert terminal.getvalue().endswith(" \r")
    assert bar._make_room not in logging.get_absl_handler().filters


def test_what_nobody_waits_for_shows_nothing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.Progress(4, "sending", is_shown=False) as bar:
        bar.update(4)
    assert terminal.getvalue() == ""
