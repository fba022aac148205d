"""`history.csv` and TensorBoard, written from the checkpointed history.

The rows live in the checkpoint and the file is written anew from them, so a
run that was killed and resumed has neither gaps nor repeated rows.
"""

from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from trainer.storage import csv_text, paths

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
    text = csv_text.write([COLUMNS, *([r[c] for c in COLUMNS] for r in rows)])
    paths.write_atomically(paths.join(job_dir, HISTORY_FILE), text)


class EpochLog:
    """Writes finished epochs of a phase to the file and to TensorBoard."""

    def __init__(
        self,
        job_dir: str,
        phase: str,
        rows_before: Sequence[dict] = (),
        num_written: int = 0,
    ):
        """Opens the log of one phase.

        Args:
            job_dir: of the run.
            phase: name of the phase, a TensorBoard run of its own.
            rows_before: history of the phases before.
            num_written: epochs of the phase that an earlier start has logged.
        """
        self._job_dir = job_dir
        self._rows_before = list(rows_before)
        self._num_written = num_written
        self._writer = tf.summary.create_file_writer(
            paths.join(job_dir, "logs", phase)
        )

    def write(self, rows: list[dict]) -> None:
        """Takes over all rows of the phase so far."""
        write_csv(self._job_dir, self._rows_before + rows)
        for row in rows[self._num_written :]:
            with self._writer.as_default(step=row["step"]):
                for name in COLUMNS[3:]:
                    if row[name] is not None:
                        tf.summary.scalar(name, row[name])
        self._num_written = len(rows)
        self._writer.flush()


def log_epoch(row: dict, num_epochs: int, is_best: bool = False) -> None:
    """A line for people."""
    logging.info(
        "%-9s epoch %d/%d  loss %.4f  accuracy %.3f  val_loss %.4f  "
        "val_accuracy %.3f  val_auc %s  %.0f images/s, %s waiting for input%s",
        row["phase"],
        row["epoch"],
        num_epochs,
        row["loss"],
        row["accuracy"],
        row["val_loss"],
        row["val_accuracy"],
        "n/a" if row["val_auc"] is None else f"{row['val_auc']:.3f}",
        row["images_per_second"],
        percent(row["input_wait_share"]),
        "  best so far" if is_best else "",
    )


def percent(share: float | None) -> str:
    return "n/a" if share is None else f"{share:.0%}"
