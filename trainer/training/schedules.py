"""Learning-rate schedules, functions of the step, and their optimizers."""

import keras
import numpy as np
import tensorflow as tf

# The batch that the default learning rates were chosen at.
BASE_BATCH_SIZE = 32


def choose_epochs(num_images: int) -> int:
    """Epochs of fine-tuning: many over a small set, few over a large one.

    Args:
        num_images: of the training set.

    Returns:
        As many as give 200 steps of `BASE_BATCH_SIZE` images, 3 to 10.
    """
    epochs = round(200 * BASE_BATCH_SIZE / num_images)
    return min(10, max(3, epochs))


def choose_views(num_images: int) -> int:
    """Augmented views of each image that a head is trained on.

    Args:
        num_images: of the training set.

    Returns:
        As many as give 16,000 in all, 2 to 8.
    """
    return min(8, max(2, round(16_000 / num_images)))


class _CosineDecay(keras.optimizers.schedules.CosineDecay):
    """Worked out once a step: AdamW asks anew for each variable that it decays.

    A loop's body is a graph of its own, so each turn has its own rate.
    """

    def __call__(self, step):
        if tf.executing_eagerly():
            return super().__call__(step)
        rates = tf.compat.v1.get_collection_ref(f"learning_rate_{id(self)}")
        if not rates:
            rates.append(super().__call__(step))
        return rates[0]


def make_schedule(
    name: str, peak: float, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from a tenth of the peak, then a schedule by name.

    Args:
        name: "cosine" decays to zero by a cosine (Loshchilov and Hutter, 2017,
            "SGDR: Stochastic Gradient Descent with Warm Restarts",
            https://arxiv.org/abs/1608.03983, without restarts); "constant"
            stays at the peak.
        peak: highest learning rate.
        warmup_steps: steps until it is reached.
        total_steps: steps of the phase.
    """
    return _CosineDecay(
        initial_learning_rate=peak / 10 if warmup_steps else peak,
        decay_steps=max(1, total_steps - warmup_steps),
        # What the cosine ends at, as a share of the peak.
        alpha={"cosine": 0.0, "constant": 1.0}[name],
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def learning_rates(
    name: str, peak: float, warmup_steps: int, total_steps: int
) -> np.ndarray:
    """The rate of every step of a schedule, float32 `[total_steps]`.

    All at once: `make_schedule` takes a millisecond a step outside of a graph.
    """
    steps = np.arange(total_steps)
    rising = peak / 10 + (peak - peak / 10) * steps / max(1, warmup_steps)
    share = (steps - warmup_steps) / max(1, total_steps - warmup_steps)
    falling = {
        "cosine": peak * 0.5 * (1 + np.cos(np.pi * share)),
        "constant": np.full(total_steps, peak),
    }[name]
    rates = np.where(steps < warmup_steps, rising, falling)
    return rates.astype(np.float32)


def scale_for_batch(rate: float, global_batch_size: int, rule: str) -> float:
    """The learning rate for another global batch than `BASE_BATCH_SIZE`.

    Args:
        rate: at `BASE_BATCH_SIZE` images a step.
        global_batch_size: images per step, over all replicas.
        rule: "sqrt" for optimizers that divide by the gradient's size, as
            AdamW (Malladi et al., 2022, "On the SDEs and Scaling Rules for
            Adaptive Gradient Algorithms", https://arxiv.org/abs/2205.10287);
            "linear" (Goyal et al., 2017, "Accurate, Large Minibatch SGD",
            https://arxiv.org/abs/1706.02677); "none": as it is.
    """
    ratio = global_batch_size / BASE_BATCH_SIZE
    return rate * {"sqrt": ratio**0.5, "linear": ratio, "none": 1.0}[rule]


SGD_MOMENTUM = 0.9


def make_optimizer(
    name: str,
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    weight_decay: float,
) -> keras.optimizers.Optimizer:
    """`adamw` or `sgd`; weight decay is decoupled from the gradient."""
    if name == "sgd":
        return keras.optimizers.SGD(
            schedule,
            momentum=SGD_MOMENTUM,
            nesterov=True,
            weight_decay=weight_decay,
        )
    return keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
