"""Every image of a split exactly once -> per-example predictions."""

import numpy as np


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
