"""Learning-rate schedules: functions of the step."""

import keras


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from a tenth of the peak, then cosine decay to zero.

    Loshchilov and Hutter, 2017, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", https://arxiv.org/abs/1608.03983 (without restarts).

    Args:
        peak: highest learning rate.
        warmup_steps: steps until it is reached.
        total_steps: steps until the rate is zero.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / 10 if warmup_steps else peak,
        decay_steps=max(1, total_steps - warmup_steps),
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
