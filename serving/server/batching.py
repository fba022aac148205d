"""Computes together what is asked at the same time, for a batch takes less.

An image that comes while a core is free is computed at once and alone; those
that wait for one become a batch. Nothing waits for company.
"""

import collections
import contextlib
from collections.abc import Callable
from concurrent import futures

import tensorflow as tf

from trainer.data.build import parallel

# On two cores a batch of 8 takes as long per image.
MAX_IMAGES = 4
# A larger file takes long to decode, and its neighbours would wait for it.
MAX_BYTES = 2**18


class Batched:
    """A signature of `image_bytes` whose answers are a row for each image."""

    def __init__(self, function: Callable):
        """Takes the signature's concrete function."""
        self._function = function
        self._waiting: collections.deque = collections.deque()
        self._threads = futures.ThreadPoolExecutor(
            parallel.default_num_workers(), thread_name_prefix="batch"
        )

    def __call__(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what the function does, and raises it.

        Args:
            image_bytes: string `[batch]`; of one image, it may be computed
                with those of other threads.
        """
        images = image_bytes.numpy()
        if len(images) != 1 or len(images[0]) > MAX_BYTES:
            return self._function(image_bytes=image_bytes)
        answer: futures.Future = futures.Future()
        self._waiting.append((image_bytes, answer))
        self._threads.submit(self._answer_some)
        return answer.result()

    def _answer_some(self) -> None:
        some = []
        with contextlib.suppress(IndexError):
            while len(some) < MAX_IMAGES:
                some.append(self._waiting.popleft())
        if some:  # An earlier batch may have had them all.
            self._answer(some)

    def _answer(self, some: list[tuple[tf.Tensor, futures.Future]]) -> None:
        images, answers = zip(*some, strict=True)
        try:
            outputs = self._function(image_bytes=tf.concat(images, axis=0))
            rows = {n: tf.split(t, len(some)) for n, t in outputs.items()}
        except Exception as error:
            if len(some) == 1:
                answers[0].set_exception(error)
                return
            for each in some:  # One's error is not the others'.
                self._answer([each])
            return
        for index, answer in enumerate(answers):
            answer.set_result({name: row[index] for name, row in rows.items()})
