"""Every trial of a sweep, written down when it has ended.

The log alone is what a sweep goes on from: a trial is one line that is on the
disk before the next trial starts, so a kill at any moment loses at most the
trial that was running.
"""

import dataclasses
import json
import os

from trainer.storage import paths

LOG_FILE = "trials.jsonl"


@dataclasses.dataclass(frozen=True)
class EndedTrial:
    """What was tried and what came of it.

    Attributes:
        trial_id: of the oracle.
        values: hyperparameters by name.
        seconds: that it took.
        score: the objective, mean over seeds and folds; None if it failed.
        metrics: likewise, each metric of `metrics.json`.
        num_epochs: mean epochs until the best.
        message: why it failed.
    """

    trial_id: str
    values: dict
    seconds: float
    score: float | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    num_epochs: float | None = None
    message: str = ""

    @property
    def status(self) -> str:
        """As keras-tuner calls it."""
        return "FAILED" if self.score is None else "COMPLETED"


class TrialLog:
    """Appends trials to `trials.jsonl` and reads those of earlier starts."""

    def __init__(self, job_dir: str):
        """Reads the log of a job directory, and makes one if there is none.

        Raises:
            ValueError: if a line is damaged.
        """
        self._path = paths.join(job_dir, LOG_FILE)
        os.makedirs(job_dir, exist_ok=True)
        with open(self._path, "a+b") as file:
            file.seek(0)
            data = file.read()
        # A kill or a full disk may have left a part of a last line.
        whole = data[: data.rfind(b"\n") + 1]
        try:
            self.trials = [
                EndedTrial(**json.loads(line)) for line in whole.splitlines()
            ]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self._path} is damaged ({error}): restore it, or start the "
                "sweep anew in another --job_dir."
            ) from error
        if whole != data:
            paths.write_atomically(self._path, whole)

    def append(self, trial: EndedTrial) -> None:
        """Adds a trial; it is on the disk when this returns.

        Raises:
            OSError: if it cannot be written; what was there is intact.
        """
        with (
            paths.writing(self._path),
            open(self._path, "a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(dataclasses.asdict(trial)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.trials.append(trial)
