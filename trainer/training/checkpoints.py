"""Save and resume: one checkpoint holds all that a phase needs to go on.

Weights, optimizer, step, the sums of the running epoch, early-stopping state,
history and the best weights so far are one atomic checkpoint, so a run that is
killed between two files does not exist.
"""

import dataclasses
import io
import json
import math
import re
import zipfile

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer.storage import paths

# What a read of a torn or altered checkpoint raises: TensorFlow's reader maps
# its status codes to Python's own errors, a short read to IndexError.
_DAMAGE = (
    tf.errors.OpError,
    ValueError,
    AssertionError,
    IndexError,
    RuntimeError,
)
# What a write to a full, read-only or vanished disk raises.
_DISK_ERRORS = (
    tf.errors.ResourceExhaustedError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)


@dataclasses.dataclass
class Progress:
    """Where a phase stands, as far as tensors do not know it.

    Attributes:
        step: training steps done.
        sums: loss, correct predictions and images of the running epoch.
        seconds: spent on training steps of the running epoch.
        input_seconds: of these, waiting for the next batch; NaN if unknown.
        lowest_losses: of each validation image, in the epoch in which their
            mean was lowest.
        best_epoch: whose weights are kept, 0 before the first.
        finished: the phase is over.
        history: one row per finished epoch.
        best_weights: the model's weights at `best_epoch`, on the host.
    """

    step: int = 0
    sums: list[float] = dataclasses.field(default_factory=lambda: [0.0] * 3)
    seconds: float = 0.0
    input_seconds: float = 0.0
    lowest_losses: list[float] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    finished: bool = False
    history: list[dict] = dataclasses.field(default_factory=list)
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def input_wait_share(self) -> float | None:
        """Share of the running epoch's time spent waiting for input."""
        if math.isnan(self.input_seconds):
            return None
        return min(1.0, self.input_seconds / max(self.seconds, 1e-9))

    def to_bytes(self) -> bytes:
        fields = dict(vars(self))
        weights = fields.pop("best_weights")
        buffer = io.BytesIO()
        arrays = {f"weight_{i}": w for i, w in enumerate(weights)}
        np.savez(buffer, progress=np.array(json.dumps(fields)), **arrays)
        return buffer.getvalue()

    def update_from_bytes(self, data: bytes) -> None:
        with np.load(io.BytesIO(data)) as arrays:
            for name, value in json.loads(str(arrays["progress"])).items():
                setattr(self, name, value)
            self.best_weights = [
                arrays[f"weight_{i}"] for i in range(len(arrays.files) - 1)
            ]


def read_progress(path: str) -> Progress | None:
    """What `Progress.to_bytes` gave, or None if it is absent or damaged."""
    progress = Progress()
    try:
        progress.update_from_bytes(paths.read_bytes(path))
    except FileNotFoundError:
        return None
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
    ) as error:
        logging.warning("%s is damaged (%s): it is made anew.", path, error)
        return None
    return progress


class _ProgressState(tf.train.experimental.PythonState):
    """Puts `Progress` into a TensorFlow checkpoint."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def serialize(self) -> bytes:
        return self.progress.to_bytes()

    def deserialize(self, string_value: bytes) -> None:
        self.progress.update_from_bytes(string_value)


class PhaseCheckpoint:
    """Checkpoints of one phase; the newest intact one is restored."""

    def __init__(
        self,
        directory: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        save_directory: str | None = None,
    ):
        """Ties model and optimizer to a directory.

        Args:
            directory: of this phase alone; checkpoints are restored from it.
            save_directory: where this process saves; default: `directory`.
                All workers take part in a save, but only the chief's counts.
            model: whose weights are kept.
            optimizer: already built on the model's trainable variables:
                otherwise its slots would be restored too late, or never.
        """
        self.progress = Progress()
        self._checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            progress=_ProgressState(self.progress),
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, save_directory or directory, max_to_keep=3
        )
        self._directory = directory

    def save(self) -> None:
        """Saves; a save that fails leaves the checkpoints before it intact.

        Raises:
            OSError: if the disk is full, for example.
        """
        try:
            self._manager.save(checkpoint_number=self.progress.step)
        except _DISK_ERRORS as error:
            # What was written of it would fill the disk further.
            pattern = f"ckpt-{self.progress.step}*temp*"
            for path in tf.io.gfile.glob(
                paths.join(self._manager.directory, pattern)
            ):
                if tf.io.gfile.isdir(path):
                    tf.io.gfile.rmtree(path)
                else:
                    tf.io.gfile.remove(path)
            raise OSError(
                f"The checkpoint of step {self.progress.step} could not be "
                f"written to {self._manager.directory} "
                f"({_reason(error)}): free some space there; "
                "the checkpoints before it are intact, and the same command "
                "continues."
            ) from error

    def restore(self) -> bool:
        """Restores the newest intact checkpoint, if there is one.

        Returns:
            Whether there was one.

        Raises:
            ValueError: if there are checkpoints, but none is intact.
        """
        candidates = self._paths()
        for path in candidates:
            try:
                # Tensors carry checksums that a read verifies.
                status = self._checkpoint.restore(path)
                status.assert_existing_objects_matched()
            except _DAMAGE as error:
                logging.warning(
                    "Checkpoint %s is damaged (%s): the one before it is used.",
                    path,
                    _reason(error),
                )
                continue
            return True
        if candidates:
            raise ValueError(
                f"No checkpoint in {self._directory} is intact: "
                "delete that directory to start the phase anew."
            )
        return False

    def _paths(self) -> list[str]:
        """Checkpoints that are there, newest first.

        The directory is asked, and not TensorFlow's file `checkpoint`: with
        that file torn or lost the phase would silently start anew.
        """
        path_of = {}
        for suffix in (".index", ".data-00000-of-*"):
            for path in tf.io.gfile.glob(
                paths.join(self._directory, f"ckpt-*{suffix}")
            ):
                match = re.fullmatch(
                    r"(.*ckpt-(\d+))\.(?:index|data-\d+-of-\d+)", path
                )
                if match:
                    path_of[int(match.group(2))] = match.group(1)
        return [path_of[step] for step in sorted(path_of, reverse=True)]


def _reason(error: Exception) -> str:
    """First line of an error, without TensorFlow's name of the function."""
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(r"\{\{.*?\}\} *", "", lines[0])
