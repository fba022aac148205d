"""The hyperparameters that a sweep searches, and what they mean for a run.

`SPACE` is the one place for the ranges. A user narrows it by a JSON file:
`{"dropout": [0.2, 0.4], "optimizer": ["adamw"]}` keeps a part of a range, or
some of the choices; one value fixes it.
"""

import dataclasses
import json

from trainer.storage import paths


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values; searched only where `parent` is one of `when`."""

    values: tuple
    parent: str = ""
    when: tuple = ()


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between two, drawn evenly on a linear or a log scale."""

    low: float
    high: float
    sampling: str = "linear"


_HIDDEN = {"parent": "num_hidden_layers", "when": (1, 2)}
SPACE: dict[str, Choice | Range] = {
    # The head. A second hidden layer is half as wide as the first.
    "num_hidden_layers": Choice((0, 1, 2)),
    "hidden_units": Choice((32, 64, 128, 256), **_HIDDEN),
    "head_activation": Choice(("relu", "gelu", "swish"), **_HIDDEN),
    "head_batch_norm": Choice((False, True), **_HIDDEN),
    "dropout": Range(0.0, 0.7),
    # Its training.
    "optimizer": Choice(("adamw", "sgd")),
    "head_learning_rate": Range(1e-4, 3e-2, "log"),
    "schedule": Choice(("cosine", "constant")),
    "weight_decay": Range(1e-6, 1e-1, "log"),
    "global_batch_size": Choice((16, 32, 64)),
    "label_smoothing": Range(0.0, 0.2),
    "class_weights": Choice(("balanced", "none")),
    "focal_gamma": Choice((0.0, 1.0, 2.0)),
    # Times the ranges of --rotation_degrees and so on; each strength has
    # cached views of its own. 0 needs one view only.
    "augmentation_strength": Choice((0.0, 1.0)),
}
# Of the second stage: blocks of the backbone, from the top; 0 trains no more
# than the head.
DEPTH = "fine_tune_blocks"
SECOND_STAGE = {DEPTH: Choice((0, 2, 4, 9))}
AUGMENTATION_FIELDS = (
    "rotation_degrees",
    "shift_fraction",
    "zoom_fraction",
    "brightness",
    "contrast",
    "horizontal_flip",
    "vertical_flip",
)
# What the sweep's own flags say of the head phase, and a run must share.
HEAD_PHASE_FIELDS = (
    "image_size",
    "feature_views",
    "patience",
    "warmup_fraction",
    "gradient_clip_norm",
    "learning_rate_scaling",
)


def read_space(path: str) -> dict[str, Choice | Range]:
    """Both stages' spaces, narrowed by a JSON file unless its path is empty.

    Raises:
        ValueError: if the file is not JSON, or names what is not searched, or
            leaves nothing of a range.
        OSError: if it cannot be read.
    """
    whole = SPACE | SECOND_STAGE
    if not path:
        return whole
    try:
        narrowed = json.loads(paths.read_bytes(path))
    except ValueError as error:
        raise ValueError(
            f"--search_space={path} is not JSON: {error}."
        ) from error
    if not isinstance(narrowed, dict):
        raise ValueError(
            f"--search_space={path} must be a JSON object of hyperparameter to "
            'values, for example {"dropout": [0.2, 0.4]}.'
        )
    unknown = sorted(set(narrowed) - set(whole))
    if unknown:
        raise ValueError(
            f"--search_space={path} has {', '.join(unknown)}, which is not "
            f"searched: choose among {', '.join(whole)}."
        )
    space = dict(whole)
    for name, wanted in narrowed.items():
        wanted = wanted if isinstance(wanted, list) else [wanted]
        space[name] = _narrow(path, name, whole[name], wanted)
    return space


def _narrow(path, name, whole, wanted):
    if isinstance(whole, Choice):
        values = tuple(v for v in whole.values if v in wanted)
        strange = [v for v in wanted if v not in whole.values]
        if strange or not values:
            raise ValueError(
                f"--search_space={path}: {name} must be some of "
                f"{list(whole.values)}. Received: {json.dumps(wanted)}."
            )
        return dataclasses.replace(whole, values=values)
    if (
        not all(type(v) in (int, float) for v in wanted)
        or len(wanted) not in (1, 2)
        or not whole.low <= wanted[0] <= wanted[-1] <= whole.high
    ):
        raise ValueError(
            f"--search_space={path}: {name} must be one number or a lower and "
            f"an upper bound, within {whole.low} and {whole.high}. Received: "
            f"{json.dumps(wanted)}."
        )
    if wanted[0] == wanted[-1]:
        return Choice((float(wanted[0]),))
    return Range(float(wanted[0]), float(wanted[1]), whole.sampling)


def to_hyperparameters(space: dict[str, Choice | Range]):
    """A space as keras-tuner has it, all of it known beforehand."""
    # It imports TensorFlow, which takes seconds; the space alone does not.
    import keras_tuner

    hyperparameters = keras_tuner.HyperParameters()
    for name, values in space.items():
        if isinstance(values, Range):
            hyperparameters.Float(
                name, values.low, values.high, sampling=values.sampling
            )
        elif values.parent:
            when = [v for v in space[values.parent].values if v in values.when]
            if when:
                with hyperparameters.conditional_scope(values.parent, when):
                    hyperparameters.Choice(name, list(values.values))
        else:
            hyperparameters.Choice(name, list(values.values))
    return hyperparameters


def to_settings(values: dict, base: dict) -> dict:
    """What hyperparameters mean, as fields of a `TrainConfig`.

    Args:
        values: of a trial.
        base: the fields of the sweep's own configuration.

    Returns:
        The fields that the values decide; their names are flags of
        `trainer.task`.
    """
    settings = {name: base[name] for name in HEAD_PHASE_FIELDS}
    settings |= {name: values[name] for name in SPACE if name in values}
    if "head_batch_norm" in settings:
        # keras-tuner makes numbers of booleans.
        settings["head_batch_norm"] = bool(settings["head_batch_norm"])
    depth, width = settings.pop("num_hidden_layers"), values.get("hidden_units")
    settings["hidden_units"] = [width // 2**i for i in range(depth)]
    # Hyperband gives most trials a part of the epochs.
    settings["head_epochs"] = values.get("tuner/epochs", base["head_epochs"])
    strength = settings.pop("augmentation_strength")
    return settings | scale_augmentation(base, strength)


def scale_augmentation(base: dict, strength: float) -> dict:
    """The augmentation fields of a `TrainConfig` at another strength."""
    settings = {
        # A flip stays a boolean.
        name: type(base[name])(base[name] * strength)
        for name in AUGMENTATION_FIELDS
    }
    if not strength:
        settings["feature_views"] = 1
    return settings
