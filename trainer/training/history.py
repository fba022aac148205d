"""`history.csv` and TensorBoard, written from the checkpointed history.

The rows live in the checkpoint and the file is written anew from them, so a
run that was killed and resumed has neither gaps nor repeated rows.
"""

import csv
import io

import tensorflow as tf

from trainer.storage import paths

HISTORY_FILE = "history.csv"
COLUMNS = (
    "phase",
    "epoch",
    "step",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "val_auc",
    "learning_rate",
    "images_per_second",
    "seconds",
    "input_wait_share",
)


def write_csv(job_dir: str, rows: list[dict]) -> None:
    """Writes all rows, phase by phase; None becomes an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    paths.write_atomically(paths.join(job_dir, HISTORY_FILE), buffer.getvalue())


class EpochLog:
    """Writes each finished epoch of a phase to both places."""

    def __init__(self, job_dir: str, phase: str, rows_before: list[dict]):
        """Opens the log of one phase.

        Args:
            job_dir: of the run.
            phase: name of the phase, a TensorBoard run of its own.
            rows_before: history of the phases before.
        """
        self._job_dir = job_dir
        self._rows_before = rows_before
        self._writer = tf.summary.create_file_writer(
            paths.join(job_dir, "logs", phase)
        )

    def write(self, rows: list[dict]) -> None:
        """Takes over all rows of the phase; the last one is new."""
        write_csv(self._job_dir, self._rows_before + rows)
        row = rows[-1]
        with self._writer.as_default(step=row["step"]):
            for name in COLUMNS[3:]:
                if row[name] is not None:
                    tf.summary.scalar(name, row[name])
        self._writer.flush()
