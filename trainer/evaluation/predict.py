"""Every image of a split exactly once -> per-example predictions."""

import numpy as np

from trainer.evaluation import predictions as predictions_lib


def two_column_logits(logits: np.ndarray) -> np.ndarray:
    """Logits with a column per class.

    Args:
        logits: float32 `[images, K]`; K = 1 is the logit of label 1.

    Returns:
        float32 `[images, classes]` whose softmax are the probabilities; one
        logit z becomes [0, z], since sigmoid(z) = softmax([0, z])[1].
    """
    if logits.shape[-1] > 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=-1)


def make_predictions(
    ids: list[str], groups: list[str], labels: list[int], logits: np.ndarray
) -> predictions_lib.Predictions:
    """Ties the model's outputs to the records they belong to.

    Args:
        ids: of the images, in the order of the records.
        groups: likewise.
        labels: likewise.
        logits: float32 `[images, K]`, likewise.
    """
    return predictions_lib.Predictions(
        ids=ids,
        groups=groups,
        labels=np.asarray(labels, np.int32),
        logits=two_column_logits(logits),
    )
