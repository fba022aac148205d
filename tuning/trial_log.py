"""Every trial of a sweep, written down before and after it runs.

The log alone is what a sweep goes on from: each event is one line that is on
the disk before the sweep takes its next step, so a kill at any moment loses at
most the trial that was running.
"""

import json
import os

from trainer import storage

LOG_FILE = "trials.jsonl"
STARTED, ENDED = "started", "ended"


class TrialLog:
    """Appends events to `trials.jsonl` and reads those of earlier starts."""

    def __init__(self, job_dir: str):
        self._path = storage.join(job_dir, LOG_FILE)
        os.makedirs(job_dir, exist_ok=True)
        self.events = self._read()

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

    def _read(self) -> list[dict]:
        if not os.path.exists(self._path):
            return []
        data = storage.read_bytes(self._path)
        # A kill or a full disk may have left a part of a last line.
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            storage.write_atomically(self._path, whole)
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise ValueError(
                f"{self._path} is damaged ({error}): restore it, or start the "
                "sweep anew in another --job_dir."
            ) from error
