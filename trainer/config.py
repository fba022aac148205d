"""The configuration of a training run: stated, documented and checked once.

`trainer.task` makes a flag of every field, with its default and its help.
Only `pipeline` and `tuning` see a `TrainConfig`; what they call takes plain
values.
"""

import dataclasses
import json
import re
import typing

from trainer.storage import paths

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
CLASS_WEIGHTS = ("balanced", "none")
RATE_SCALINGS = ("sqrt", "linear", "none")
ACTIVATIONS = ("relu", "gelu", "swish")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")


def _field(default, help_text: str):
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a run does; see the help of each field (`--help`)."""

    data_dir: str = _field("", "Records that build_records wrote.")
    job_dir: str = _field("", "Where the run writes; resumes if it exists.")
    export_dir: str = _field(
        "", "Base path of exported versions; empty: JOB_DIR/export."
    )
    stage_data: bool = _field(
        True,
        "Copy the records of a DATA_DIR in Cloud Storage to the local disk "
        "first, checked; otherwise they are streamed, for a small disk.",
    )
    weights: str = _field(
        "imagenet",
        "Initial weights of the backbone: imagenet (downloaded), none (train "
        "everything from scratch), or a .weights.h5 file of EfficientNetB0 "
        "without its top.",
    )
    image_size: int = _field(224, "Height and width of the input, in pixels.")
    global_batch_size: int = _field(
        32, "Images per training step, over all replicas."
    )
    head_epochs: int = _field(
        40, "Epochs on the head with the backbone frozen; 0 skips the phase."
    )
    fine_tune_epochs: int = _field(
        10, "Epochs with the top blocks unfrozen; 0 skips the phase."
    )
    fine_tune_blocks: int = _field(
        2,
        "Blocks of the backbone to fine-tune, from the top, of 9. All of them "
        "are trained with --weights=none.",
    )
    head_learning_rate: float = _field(
        3e-3, "Peak rate of the head phase at 32 images a step."
    )
    fine_tune_learning_rate: float = _field(
        0.0,
        "Peak rate of fine-tuning at 32 images a step; 0: 1e-4 for pretrained "
        "weights, 2e-3 from scratch.",
    )
    learning_rate_scaling: str = _field(
        "sqrt",
        "How peak rates grow with --global_batch_size / 32: sqrt (the rule of "
        "AdamW), linear, or none.",
    )
    warmup_fraction: float = _field(
        0.1, "Share of a phase's steps in which the rate rises to its peak."
    )
    optimizer: str = _field(
        "adamw", "adamw, or sgd with a Nesterov momentum of 0.9."
    )
    schedule: str = _field(
        "cosine", "After the warm-up: cosine decay to zero, or constant."
    )
    weight_decay: float = _field(1e-4, "Decoupled weight decay.")
    gradient_clip_norm: float = _field(
        0.0,
        "Largest global norm of the gradient, summed over all replicas, of a "
        "step; 0 does not clip.",
    )
    label_smoothing: float = _field(
        0.0, "Share of the target spread over all classes."
    )
    focal_gamma: float = _field(
        0.0,
        "Focal loss: how much less counts what is learned already; 0: plain "
        "cross-entropy.",
    )
    class_weights: str = _field(
        "balanced",
        "balanced: weigh classes by inverse frequency; none: all alike.",
    )
    hidden_units: tuple[int, ...] = _field(
        (), "Widths of the head's hidden layers, for example 256,64."
    )
    head_activation: str = _field(
        "relu", "Activation of the hidden layers: relu, gelu or swish."
    )
    head_batch_norm: bool = _field(
        False, "Batch norm before each activation of the hidden layers."
    )
    dropout: float = _field(0.3, "Dropout rate before each Dense layer.")
    feature_views: int = _field(
        8, "Augmented views of each image that the head is trained on."
    )
    features_dir: str = _field(
        "",
        "Where features are kept for the next run; empty: DATA_DIR/features.",
    )
    patience: int = _field(
        10, "Epochs without a lower validation loss before a phase stops."
    )
    rotation_degrees: float = _field(15.0, "Random rotation either way.")
    shift_fraction: float = _field(
        0.08, "Random shift either way, as a share of height and width."
    )
    zoom_fraction: float = _field(0.12, "Random zoom either way.")
    horizontal_flip: bool = _field(True, "Mirror left and right at random.")
    vertical_flip: bool = _field(False, "Mirror top and bottom at random.")
    brightness: float = _field(
        0.1, "Random brightness either way, as a share of the full range."
    )
    contrast: float = _field(0.1, "Random contrast either way.")
    operating_point: str = _field(
        "youden",
        "Rule for the decision threshold, chosen on validation: youden, "
        "sensitivity:0.95, specificity:0.95, cost:FN=5,FP=1, or a number.",
    )
    num_folds: int = _field(
        0,
        "Folds to cross-validate over before the model itself is trained; 0: "
        "none. The test split takes no part in them.",
    )
    subgroups: str = _field(
        "",
        "Columns that build_records kept, for example sex,scanner, by whose "
        "values the report judges the model too; empty: all of them.",
    )
    prevalences: str = _field(
        "0.01,0.05,0.2",
        "Shares of positives at which predictive values are reported.",
    )
    precision: str = _field(
        "auto",
        "Arithmetic: auto (what the hardware is fast at), float32, "
        "mixed_bfloat16 or mixed_float16.",
    )
    strategy: str = _field(
        "auto", "auto, one_device, mirrored, multi_worker or tpu."
    )
    cluster_timeout_s: int = _field(
        600, "Seconds to wait for all workers of a cluster to start."
    )
    steps_per_execution: int = _field(
        8, "Training steps in one call of the compiled loop."
    )
    accumulation_steps: int = _field(
        1,
        "Micro-batches that the global batch is cut into: one step adds their "
        "gradients up, for batches larger than the memory.",
    )
    profile_steps: str = _field(
        "",
        "First and last step of each phase to profile for TensorBoard, for "
        "example 10,20; empty: none.",
    )
    deterministic: bool = _field(
        False,
        "Use only ops that give the same bits in every run on one machine; "
        "slower on GPUs.",
    )
    seed: int = _field(0, "Of weights, order, augmentation and dropout.")

    # What may differ between the workers of a run: no field.
    _LOCAL: typing.ClassVar = (
        "data_dir",
        "job_dir",
        "export_dir",
        "features_dir",
        "stage_data",
        "strategy",
        "cluster_timeout_s",
    )
    # What may differ between a run and its continuation: no field.
    _FREE: typing.ClassVar = (
        *_LOCAL,
        "steps_per_execution",
        "accumulation_steps",
        "profile_steps",
        "operating_point",
        "num_folds",
        "subgroups",
        "prevalences",
    )

    def __post_init__(self):
        for name in ("data_dir", "job_dir"):
            if not getattr(self, name):
                raise ValueError(f"--{name} must be given.")
        for name, low, high in (
            ("image_size", 32, 1024),
            ("global_batch_size", 1, 65536),
            ("head_epochs", 0, 100_000),
            ("fine_tune_epochs", 0, 100_000),
            ("fine_tune_blocks", 1, 9),
            ("warmup_fraction", 0.0, 0.9),
            ("label_smoothing", 0.0, 0.9),
            ("dropout", 0.0, 0.95),
            ("focal_gamma", 0.0, 10.0),
            ("feature_views", 1, 1000),
            ("patience", 1, 100_000),
            ("cluster_timeout_s", 1, 86_400),
            ("steps_per_execution", 1, 100_000),
            ("accumulation_steps", 1, 4096),
            ("gradient_clip_norm", 0.0, 1e6),
            ("weight_decay", 0.0, 1.0),
            ("rotation_degrees", 0.0, 180.0),
            ("shift_fraction", 0.0, 0.5),
            ("zoom_fraction", 0.0, 0.9),
            ("brightness", 0.0, 1.0),
            ("contrast", 0.0, 1.0),
            ("fine_tune_learning_rate", 0.0, 10.0),
            ("num_folds", 0, 100),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(
                    f"--{name} must be between {low} and {high}. "
                    f"Received: {name}={value}."
                )
        if self.num_folds == 1:
            raise ValueError(
                "--num_folds must be 0 or at least 2. Received: num_folds=1."
            )
        if not self.head_learning_rate > 0:
            raise ValueError(
                "--head_learning_rate must be positive. Received: "
                f"head_learning_rate={self.head_learning_rate}."
            )
        for name, choices in (
            ("precision", PRECISIONS),
            ("class_weights", CLASS_WEIGHTS),
            ("learning_rate_scaling", RATE_SCALINGS),
            ("head_activation", ACTIVATIONS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"--{name} must be one of {', '.join(choices)}. "
                    f"Received: {name}={getattr(self, name)}."
                )
        if self.profile_steps and not self.profile_range:
            raise ValueError(
                "--profile_steps must be the first and the last step, for "
                "example 10,20. Received: "
                f"profile_steps={self.profile_steps}."
            )
        if any(units < 1 for units in self.hidden_units):
            raise ValueError(
                "--hidden_units must be positive numbers. Received: "
                f"hidden_units={','.join(map(str, self.hidden_units))}."
            )
        if self.is_pretrained:
            if not self.head_epochs and not self.fine_tune_epochs:
                raise ValueError(
                    "--head_epochs and --fine_tune_epochs are both 0: there "
                    "is nothing to train."
                )
        elif not self.fine_tune_epochs:
            raise ValueError(
                "--weights=none trains everything in the fine-tuning phase: "
                "--fine_tune_epochs must be positive."
            )

    @property
    def is_pretrained(self) -> bool:
        return self.weights != "none"

    @property
    def profile_range(self) -> tuple[int, int] | None:
        """First and last step to profile; None if there are no such two."""
        match = re.fullmatch(r"(\d{1,9}),(\d{1,9})", self.profile_steps)
        if not match:
            return None
        first, last = (int(number) for number in match.groups())
        return (first, last) if 1 <= first <= last else None

    @property
    def peak_fine_tune_learning_rate(self) -> float:
        if self.fine_tune_learning_rate:
            return self.fine_tune_learning_rate
        return 1e-4 if self.is_pretrained else 2e-3

    @property
    def settings(self) -> dict:
        """All fields by name; paths are those that the user gave."""
        return {
            name: paths.as_given(value) if isinstance(value, str) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def to_json(self) -> str:
        return json.dumps(self.settings, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "TrainConfig":
        """Parses what `to_json` wrote; `source` is named in errors."""
        try:
            fields = json.loads(text)
            fields["hidden_units"] = tuple(fields["hidden_units"])
            return cls(**fields)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{source} is not the configuration of a run of this version "
                f"({error}): use another --job_dir."
            ) from error

    def shared_json(self) -> str:
        """The fields that all workers must share."""
        fields = self.settings.items()
        return json.dumps({n: v for n, v in fields if n not in self._LOCAL})

    def differences(self, other: "TrainConfig") -> dict[str, tuple]:
        """Fields that a continuation must share but does not.

        Returns:
            Name -> (value here, value of `other`).
        """
        mine, theirs = self.settings, other.settings
        return {
            name: (mine[name], theirs[name])
            for name in mine
            if name not in self._FREE and mine[name] != theirs[name]
        }
