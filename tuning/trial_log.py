"""Every trial of a sweep, written down before and after it runs.

The log alone is what a sweep goes on from: each event is one line that is on
the disk before the sweep takes its next step, so a kill at any moment loses at
most the trial that was running.
"""

import json
import os

from trainer.storage import paths

LOG_FILE = "trials.jsonl"
STARTED, ENDED = "started", "ended"


class TrialLog:
    """Appends events to `trials.jsonl` and reads those of earlier starts."""

    def __init__(self, job_dir: str):
        self._path = paths.join(job_dir, LOG_FILE)
        os.makedirs(job_dir, exist_ok=True)
        self.events = read_events(job_dir)
        # A kill or a full disk may have left a part of a last line.
        if os.path.exists(self._path):
            whole = _whole_lines(self._path)
            if len(whole) < os.path.getsize(self._path):
                paths.write_atomically(self._path, whole)

    def append(self, event: dict) -> None:
        """Adds an event; it is on the disk when this returns.

        Raises:
            OSError: if it cannot be written; what was there is intact.
        """
        line = json.dumps(event) + "\n"
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.events.append(event)


def read_events(job_dir: str) -> list[dict]:
    """The events of a log; a line that is not yet whole is left out.

    Raises:
        ValueError: if a whole line is damaged.
    """
    path = paths.join(job_dir, LOG_FILE)
    if not os.path.exists(path):
        return []
    try:
        return [json.loads(line) for line in _whole_lines(path).splitlines()]
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): restore it, or start the sweep "
            "anew in another --job_dir."
        ) from error


def _whole_lines(path: str) -> bytes:
    data = paths.read_bytes(path)
    return data[: data.rfind(b"\n") + 1]
