"""The configuration of a training run: stated, documented and checked once.

`trainer.task` makes a flag of every field, with its default and its help.
Only `pipeline` and `tuning` see a `TrainConfig`; what they call takes plain
values.
"""

import dataclasses
import json
import re

from trainer import settings
from trainer.settings import BETWEEN_STARTS, BETWEEN_WORKERS, setting
from trainer.storage import paths


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a run does; see the help of each field (`--help`)."""

    data_dir: str = setting(
        "", "Records that build_records wrote.", varies=BETWEEN_WORKERS
    )
    job_dir: str = setting(
        "", "Where it writes; resumes if it exists.", varies=BETWEEN_WORKERS
    )
    export_dir: str = setting(
        "",
        "Base path of exported versions; empty: JOB_DIR/export.",
        varies=BETWEEN_WORKERS,
    )
    stage_data: bool = setting(
        True,
        "Copy the records of a DATA_DIR in Cloud Storage to the local disk "
        "first, checked; otherwise they are streamed, for a small disk.",
        varies=BETWEEN_WORKERS,
    )
    weights: str = setting(
        "imagenet",
        "Initial weights of the backbone: imagenet (downloaded), none (train "
        "everything from scratch), or a .weights.h5 file of EfficientNetB0 "
        "without its top.",
    )
    image_size: int = setting(
        224, "Height and width of the input, in pixels.", between=(32, 1024)
    )
    global_batch_size: int = setting(
        32, "Images per training step, over all replicas.", between=(1, 65536)
    )
    head_epochs: int = setting(
        40,
        "Epochs on the head with the backbone frozen; 0 skips the phase.",
        between=(0, 100_000),
    )
    fine_tune_epochs: int = setting(
        -1,
        "Epochs with the backbone unfrozen; 0 skips the phase, -1 makes about "
        "200 steps of 32 images of it, in 3 to 10 epochs.",
        between=(-1, 100_000),
    )
    fine_tune_blocks: int = setting(
        9,
        "Blocks of the backbone to fine-tune, from the top, of 9. All of them "
        "are trained with --weights=none.",
        between=(1, 9),
    )
    patience: int = setting(
        10,
        "Epochs without one that is kept before a phase stops.",
        between=(1, 100_000),
    )
    head_learning_rate: float = setting(
        3e-3,
        "Peak rate of the head phase at 32 images a step.",
        between=(1e-9, 10.0),
    )
    fine_tune_learning_rate: float = setting(
        0.0,
        "Peak rate of fine-tuning at 32 images a step; 0: 3e-4 for pretrained "
        "weights, 2e-3 from scratch.",
        between=(0.0, 10.0),
    )
    learning_rate_scaling: str = setting(
        "sqrt",
        "Growth of peak rates with --global_batch_size / 32.",
        choices=("sqrt", "linear", "none"),
    )
    warmup_fraction: float = setting(
        0.1,
        "Share of a phase's steps in which the rate rises to its peak.",
        between=(0.0, 0.9),
    )
    optimizer: str = setting(
        "adamw",
        "adamw, or sgd with a Nesterov momentum of 0.9.",
        choices=("adamw", "sgd"),
    )
    schedule: str = setting(
        "cosine",
        "After the warm-up: cosine decay to zero, or constant.",
        choices=("cosine", "constant"),
    )
    weight_decay: float = setting(
        1e-4, "Decoupled weight decay.", between=(0.0, 1.0)
    )
    gradient_clip_norm: float = setting(
        0.0,
        "Largest global norm of a step's summed gradient; 0 does not clip.",
        between=(0.0, 1e6),
    )
    label_smoothing: float = setting(
        0.0, "Share of the target spread over all classes.", between=(0.0, 0.9)
    )
    focal_gamma: float = setting(
        0.0,
        "Focal loss: how much less the learned counts; 0: cross-entropy.",
        between=(0.0, 10.0),
    )
    class_weights: str = setting(
        "balanced",
        "balanced: weigh classes by inverse frequency; none: all alike.",
        choices=("balanced", "none"),
    )
    hidden_units: tuple[int, ...] = setting(
        (), "Widths of the head's hidden layers, for example 256,64."
    )
    head_activation: str = setting(
        "relu",
        "Activation of the hidden layers: relu, gelu or swish.",
        choices=("relu", "gelu", "swish"),
    )
    head_batch_norm: bool = setting(
        False, "Batch norm before each activation of the hidden layers."
    )
    dropout: float = setting(
        0.3, "Dropout rate before each Dense layer.", between=(0.0, 0.95)
    )
    feature_views: int = setting(
        0,
        "Augmented views of each image that the head is trained on; 0: "
        "about 16,000 in all, 2 to 8.",
        between=(0, 1000),
    )
    features_dir: str = setting(
        "",
        "Where features are kept for the next run; empty: DATA_DIR/features.",
        varies=BETWEEN_WORKERS,
    )
    test_views: int = setting(
        1,
        "Views of each image whose logits are averaged in evaluation and in "
        "the exported model: 1: the image; 2: and its mirror; 6: and four "
        "small shifts.",
        between=(1, 6),
    )
    rotation_degrees: float = setting(
        15.0, "Random rotation either way, in degrees.", between=(0.0, 180.0)
    )
    shift_fraction: float = setting(
        0.08,
        "Random shift either way, as a share of height and width.",
        between=(0.0, 0.5),
    )
    zoom_fraction: float = setting(
        0.12, "Random zoom either way.", between=(0.0, 0.9)
    )
    horizontal_flip: bool = setting(True, "Mirror left and right at random.")
    vertical_flip: bool = setting(False, "Mirror top and bottom at random.")
    brightness: float = setting(
        0.1,
        "Random brightness either way, as a share of the full range.",
        between=(0.0, 1.0),
    )
    contrast: float = setting(
        0.1, "Random contrast either way.", between=(0.0, 1.0)
    )
    operating_point: str = setting(
        "youden",
        "Rule for the decision threshold, chosen on validation: youden, "
        "sensitivity:0.95, specificity:0.95, cost:FN=5,FP=1, or a number.",
        varies=BETWEEN_STARTS,
    )
    study_rule: str = setting(
        "mean",
        "How a patient's scores become one: mean, max, top_k:3 or noisy_or.",
        varies=BETWEEN_STARTS,
    )
    ordinal: str = setting(
        "",
        "Order of the classes, from the least to the most: none,mild,severe, "
        "or sorted. The report then has the quadratic weighted kappa.",
        varies=BETWEEN_STARTS,
    )
    coverage: float = setting(
        0.9,
        "Share of the images of each class whose prediction set is to hold it.",
        between=(0.5, 0.999),
        varies=BETWEEN_STARTS,
    )
    detector: bool = setting(
        True,
        "Export what tells images that are unlike the training set. Who has "
        "such an export can find out something about who was in that set.",
        varies=BETWEEN_STARTS,
    )
    export_formats: str = setting(
        "saved_model",
        "saved_model; add ,onnx or ,litert or both for files of pixels, too.",
        choices=(
            "saved_model",
            "saved_model,onnx",
            "saved_model,litert",
            "saved_model,onnx,litert",
        ),
        varies=BETWEEN_STARTS,
    )
    num_folds: int = setting(
        0,
        "Folds to cross-validate over before the model itself is trained; 0: "
        "none. The test split takes no part in them.",
        between=(0, 100),
        varies=BETWEEN_STARTS,
    )
    ensemble: bool = setting(
        False,
        "Export the mean of the models of the folds, instead of one model "
        "that is trained on all; threshold and temperature come from the "
        "images that each fold left out. As many times the size and latency.",
    )
    subgroups: str = setting(
        "",
        "Columns that build_records kept, for example sex,scanner, by whose "
        "values the report judges the model too; empty: all of them.",
        varies=BETWEEN_STARTS,
    )
    prevalences: str = setting(
        "0.01,0.05,0.2",
        "Shares of positives at which predictive values are reported.",
        varies=BETWEEN_STARTS,
    )
    precision: str = setting(
        "auto",
        "Arithmetic: auto (what the hardware is fast at), float32, "
        "mixed_bfloat16 or mixed_float16.",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    strategy: str = setting(
        "auto",
        "auto, one_device, mirrored, multi_worker or tpu.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
        varies=BETWEEN_WORKERS,
    )
    cluster_timeout_s: int = setting(
        600,
        "Seconds to wait for all workers of a cluster to start.",
        between=(1, 86_400),
        varies=BETWEEN_WORKERS,
    )
    steps_per_execution: int = setting(
        8,
        "Training steps in one call of the compiled loop.",
        between=(1, 100_000),
        varies=BETWEEN_STARTS,
    )
    accumulation_steps: int = setting(
        1,
        "Micro-batches that the global batch is cut into: one step adds their "
        "gradients up, for batches larger than the memory.",
        between=(1, 4096),
        varies=BETWEEN_STARTS,
    )
    profile_steps: str = setting(
        "",
        "First and last step of fine-tuning to profile, as 10,20; empty: none.",
        varies=BETWEEN_STARTS,
    )
    deterministic: bool = setting(
        False,
        "Use only ops that give the same bits in every run on one machine; "
        "slower on GPUs.",
    )
    seed: int = setting(
        0,
        "Of weights, order, augmentation and dropout.",
        between=(0, 2**31 - 1),
    )

    def __post_init__(self) -> None:
        for name in ("data_dir", "job_dir"):
            if not getattr(self, name):
                raise ValueError(f"--{name} must be given.")
        for field in dataclasses.fields(self):
            settings.check(field, getattr(self, field.name))
        if self.num_folds == 1:
            raise ValueError(
                "--num_folds must be 0 or at least 2. Received: num_folds=1."
            )
        if self.ensemble and not self.num_folds:
            raise ValueError(
                "--ensemble exports the models of the folds: give "
                "--num_folds=5, for example."
            )
        if self.test_views > 1 and not self.horizontal_flip:
            raise ValueError(
                "--test_views above 1 averages over an image and its mirror, "
                "which --nohorizontal_flip says are not alike: give "
                "--test_views=1."
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
        return 3e-4 if self.is_pretrained else 2e-3

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
        return json.dumps(self._without(BETWEEN_WORKERS))

    def differences(self, other: "TrainConfig") -> dict[str, tuple]:
        """Fields that a continuation must share but does not.

        Returns:
            Name -> (value here, value of `other`).
        """
        fixed = self._without(BETWEEN_WORKERS, BETWEEN_STARTS)
        others = other.settings
        return {
            name: (value, others[name])
            for name, value in fixed.items()
            if value != others[name]
        }

    def _without(self, *varies: str) -> dict:
        """The settings but for those that vary so."""
        kinds = {f.name: f.metadata["varies"] for f in dataclasses.fields(self)}
        return {
            name: value
            for name, value in self.settings.items()
            if kinds[name] not in varies
        }
