"""A TensorBoard profile of some steps of a phase."""

import tensorflow as tf
from absl import logging


class StepProfiler:
    """Profiles from the first to the last of some steps, both included.

    An inner loop that runs over either end would blur the profile, so `limit`
    cuts it there. All workers cut alike, or their loops would get out of step;
    only the one with a directory profiles.
    """

    def __init__(
        self, directory: str = "", steps: tuple[int, int] | None = None
    ):
        """Says what to profile.

        Args:
            directory: of TensorBoard; empty: profile nothing.
            steps: first and last step, from 1; None: profile nothing.
        """
        self._directory = directory
        # In steps done: the profile covers [first, last).
        self._first, self._last = (steps[0] - 1, steps[1]) if steps else (0, 0)
        self._is_running = False

    def limit(self, step: int, num_steps: int) -> int:
        """At most `num_steps`, so that no end of the profile is run over."""
        for end in (self._first, self._last):
            if step < end < step + num_steps:
                return end - step
        return num_steps

    def update(self, step: int) -> None:
        """Starts or stops; to be called between inner loops.

        Args:
            step: number of steps done.
        """
        is_due = bool(self._directory) and self._first <= step < self._last
        if is_due and not self._is_running:
            self._is_running = True
            tf.profiler.experimental.start(self._directory)
        elif self._is_running and not is_due:
            self.stop()

    def stop(self) -> None:
        """Writes the profile if one is running."""
        if self._is_running:
            self._is_running = False
            tf.profiler.experimental.stop()
            logging.info("Profile written to %s.", self._directory)
