"""Estimates how long a training run takes and what it costs.

    python -m deploy.plan --images=10000 --device=g2-standard-8
    python -m deploy.plan --images=10000 --device=laptop \\
        --step_costs=step_costs.json

Every figure is printed with where it comes from: measured on a machine, given
by you, or estimated from published figures. `deploy.measure` measures your
machine; --images_per_second takes what the log of a run shows.
"""

import dataclasses
import json
import pathlib
import re
import sys

from absl import app, flags

from deploy import prices
from deploy.vertex import machines
from trainer import config

FLAGS = flags.FLAGS
STEP_COSTS = str(pathlib.Path(__file__).parent / "step_costs.json")

# Multiply-adds of EfficientNetB0 at 224 px (Tan and Le, 2019, table 1), twice,
# for the forward pass; a training step of the whole is three such passes.
_FLOPS_FORWARD_224 = 2 * 0.39e9
_PASSES_OF_A_STEP = 3
# Peak of dense half-precision arithmetic, FLOP/s: data sheets of the makers.
_PEAK = {
    "NVIDIA_TESLA_T4": 65e12,
    "NVIDIA_TESLA_V100": 125e12,
    "NVIDIA_L4": 121e12,
    "NVIDIA_TESLA_A100": 312e12,
    "NVIDIA_A100_80GB": 312e12,
    "NVIDIA_H100_80GB": 989e12,
    "NVIDIA_H100_MEGA_80GB": 989e12,
    "NVIDIA_H200_141GB": 989e12,
    "TPU_V2": 22.5e12,
    "TPU_V3": 61.5e12,
    "TPU_V5E": 197e12,
}
# Those that do not say it in their names.
_NUM_CPUS = {
    "a2-megagpu-16g": 96,
    "a3-megagpu-8g": 208,
    "a3-ultragpu-8g": 224,
    "a4-highgpu-8g": 224,
    "cloud-tpu": 96,
    "ct5lp-hightpu-1t": 24,
    "ct5lp-hightpu-4t": 112,
    "ct5lp-hightpu-8t": 224,
}
# What NVIDIA published for EfficientNetB0 (DeepLearningExamples, TensorFlow 2):
# 3,454 images/s on one A100 and 20,647 on eight, mixed precision.
_PUBLISHED_UTILISATION = 3454 * _PASSES_OF_A_STEP * _FLOPS_FORWARD_224 / 312e12
_PUBLISHED_EFFICIENCY = 20_647 / (8 * 3454)


@dataclasses.dataclass(frozen=True)
class Speed:
    """Images a second of a run, and where that comes from."""

    forward: float
    fine_tune: float
    source: str

    def scaled(self, factor: float, limit: float) -> "Speed":
        """Of more devices, whose input is limited."""
        return Speed(
            min(self.forward * factor, limit),
            min(self.fine_tune * factor, limit),
            self.source,
        )


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run: how often the model sees an image, and how fast."""

    name: str
    passes: int
    images_per_second: float

    @property
    def hours(self) -> float:
        return self.passes / self.images_per_second / 3600


@dataclasses.dataclass(frozen=True)
class StepCosts:
    """What `deploy.measure` wrote."""

    measured_on: str
    date: str
    num_cpus: int
    image_size: int
    input: float
    forward: float
    fine_tune: dict[int, float]

    def fine_tune_at(self, blocks: int) -> float:
        """Images a second of the least measured depth that has the blocks."""
        deeper = [depth for depth in self.fine_tune if depth >= blocks]
        return self.fine_tune[min(deeper, default=max(self.fine_tune))]


def _define_flags() -> None:
    flags.DEFINE_integer(
        "images", 10_000, "Images of the data set.", lower_bound=1
    )
    flags.DEFINE_string(
        "device",
        "laptop",
        "laptop (the machine of --step_costs), or a machine type of "
        "deploy.vertex.submit, for example g2-standard-8 (one L4).",
    )
    flags.DEFINE_string(
        "accelerator_type", "", "GPU attached to an N1 machine."
    )
    flags.DEFINE_integer("accelerator_count", 0, "GPUs of each machine.")
    flags.DEFINE_integer("num_workers", 1, "Machines.", lower_bound=1)
    flags.DEFINE_bool("spot", False, "Spot capacity.")
    defaults = config.TrainConfig
    for name, help_text in (
        ("image_size", "Pixels."),
        ("feature_views", "Augmented views that features are computed of."),
        ("fine_tune_epochs", "Epochs of fine-tuning."),
        ("fine_tune_blocks", "Blocks that are fine-tuned, of 9."),
    ):
        flags.DEFINE_integer(
            name, getattr(defaults, name), help_text, lower_bound=0
        )
    flags.DEFINE_string(
        "weights",
        "imagenet",
        "none: no head phase, all blocks are trained.",
    )
    flags.DEFINE_float(
        "images_per_second",
        0.0,
        "Fine-tuning speed of one device, as the log of a run there shows; 0: "
        "from --step_costs, or estimated.",
        lower_bound=0.0,
    )
    flags.DEFINE_float(
        "utilisation",
        _PUBLISHED_UTILISATION,
        "Share of an accelerator's peak that is assumed; default: what NVIDIA "
        "published of this network on one A100.",
        lower_bound=1e-6,
        upper_bound=1.0,
    )
    flags.DEFINE_float(
        "scaling_efficiency",
        _PUBLISHED_EFFICIENCY,
        "Share of n devices' speed that n together are assumed to reach; "
        "default: what NVIDIA published of this network on eight A100.",
        lower_bound=0.01,
        upper_bound=1.0,
    )
    flags.DEFINE_float(
        "startup_minutes",
        10.0,
        "Assumed until the first step: machine, image, records. Paid for.",
        lower_bound=0.0,
    )
    flags.DEFINE_string(
        "step_costs", STEP_COSTS, "File of deploy.measure, of your machine."
    )
    flags.DEFINE_string("price_file", prices.DEFAULT_FILE, "Prices; edit it.")


def read_step_costs(path: str) -> StepCosts:
    """Reads what `deploy.measure` wrote.

    Raises:
        ValueError: if it is something else.
        OSError: if it cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        content = json.loads(text)
        speed = content["images_per_second"]
        costs = StepCosts(
            content["measured_on"],
            content["date"],
            int(content["num_cpus"]),
            int(content["image_size"]),
            float(speed["input"]),
            float(speed["forward"]),
            {int(k): float(v) for k, v in speed["fine_tune"].items()},
        )
        if min(costs.input, costs.forward, *costs.fine_tune.values()) <= 0:
            raise ValueError("a speed is not positive")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not what deploy.measure writes "
            f"({type(error).__name__}: {error})."
        ) from error
    return costs


def num_cpus(machine_type: str) -> int:
    """vCPUs of a machine type."""
    if machine_type in _NUM_CPUS:
        return _NUM_CPUS[machine_type]
    gpus = re.fullmatch(r"a2-(?:high|ultra)gpu-(\d+)g", machine_type)
    if gpus:
        return 12 * int(gpus[1])
    gpus = re.fullmatch(r"a3-highgpu-(\d+)g", machine_type)
    if gpus:
        return 26 * int(gpus[1])
    return int(re.search(r"(\d+)$", machine_type)[1])


def _accelerator(machine: machines.Machine) -> str:
    return "TPU_V5E" if machine.tpu_topology else machine.accelerator_type


def find_speed(
    device: str,
    machine: machines.Machine | None,
    costs: StepCosts,
    image_size: int,
    blocks: int,
    given: float,
    utilisation: float,
) -> Speed:
    """Speed of one device, from the best source there is.

    Args:
        machine: None for the measured machine itself.
        given: images a second of fine-tuning that the user measured, or 0.

    Raises:
        ValueError: if there is none.
    """
    # How much more an image costs: convolutions go by its area.
    area = (image_size / costs.image_size) ** 2
    forward = costs.forward / area
    fine_tune = costs.fine_tune_at(blocks) / area
    measured = f"measured on {costs.measured_on}, {costs.date}"
    if area != 1:
        measured += f" at {costs.image_size} px, scaled by area"
    if given:
        return Speed(
            given * forward / fine_tune,
            given,
            "given by you (--images_per_second); features and evaluation by "
            f"the ratio of the steps {measured}",
        )
    if machine is None:
        return Speed(forward, fine_tune, measured)
    name = _accelerator(machine)
    if not name:
        share = num_cpus(device) / costs.num_cpus
        return Speed(
            forward * share,
            fine_tune * share,
            f"estimated: {measured}, times {share:g} for the vCPUs",
        )
    if name not in _PEAK:
        raise ValueError(
            f"There is no published peak of {name} here: give "
            "--images_per_second."
        )
    flops = _FLOPS_FORWARD_224 * (image_size / 224) ** 2
    estimate = _PEAK[name] * utilisation / flops
    return Speed(
        estimate,
        estimate * fine_tune / forward,
        f"estimated: {utilisation:.1%} of {name}'s peak of "
        f"{_PEAK[name] / 1e12:g} TFLOP/s; fine-tuning by the ratio of the "
        f"steps {measured}",
    )


def plan_phases(
    images: int,
    speed: Speed,
    is_pretrained: bool,
    feature_views: int,
    fine_tune_epochs: int,
) -> list[Phase]:
    """What the model does with the images, each counted as trained on."""
    phases = []
    if is_pretrained:
        # Each view, and the image as it is served.
        passes = images * (feature_views + 1)
        phases.append(Phase("features", passes, speed.forward))
    if fine_tune_epochs:
        passes = images * fine_tune_epochs
        phases.append(Phase("fine-tuning", passes, speed.fine_tune))
    # Prediction after each phase, and Grad-CAM of some.
    phases.append(Phase("evaluation", 2 * images, speed.forward))
    return phases


def _read_machine() -> machines.Machine | None:
    if FLAGS.device == "laptop":
        if FLAGS.num_workers > 1 or FLAGS.spot or FLAGS.accelerator_type:
            raise ValueError(
                "--device=laptop is one machine of your own: --num_workers, "
                "--spot and --accelerator_type are for machines that are "
                "rented."
            )
        return None
    machine = machines.complete(
        machines.Machine(
            FLAGS.device, FLAGS.accelerator_type, FLAGS.accelerator_count
        )
    )
    problem = machines.find_problem(machine)
    if problem:
        raise ValueError(problem.replace("machine_type", "device"))
    return machine


def _run() -> None:
    machine = _read_machine()
    is_pretrained = FLAGS.weights != "none"
    blocks = FLAGS.fine_tune_blocks if is_pretrained else 9
    costs = read_step_costs(FLAGS.step_costs)
    speed = find_speed(
        FLAGS.device,
        machine,
        costs,
        FLAGS.image_size,
        blocks,
        FLAGS.images_per_second,
        FLAGS.utilisation,
    )
    table = prices.read(FLAGS.price_file)
    num_devices = FLAGS.num_workers
    cpus = costs.num_cpus
    if machine:
        num_devices *= machines.num_devices(machine)
        cpus = num_cpus(FLAGS.device) * FLAGS.num_workers
    speed = speed.scaled(
        num_devices * (FLAGS.scaling_efficiency if num_devices > 1 else 1.0),
        # Preparing an image hardly depends on its size in the model.
        costs.input * cpus / costs.num_cpus,
    )
    phases = plan_phases(
        FLAGS.images,
        speed,
        is_pretrained,
        FLAGS.feature_views,
        FLAGS.fine_tune_epochs,
    )
    per_hour = FLAGS.num_workers * table.per_hour(
        FLAGS.device,
        machine.accelerator_type if machine else "",
        machine.accelerator_count if machine else 0,
    )
    if FLAGS.spot:
        per_hour *= table.spot_share
    startup = FLAGS.startup_minutes / 60 if machine else 0.0
    _print_phases(phases, num_devices, startup)
    hours = sum(phase.hours for phase in phases) + startup
    print(f"\n{hours:.2f} hours, ${hours * per_hour:.2f}")
    _print_sources(machine, speed, table, num_devices, per_hour)
    each = costs.input / costs.num_cpus
    print(
        f"  input   at most {each * cpus:.0f} images/s: {each:.0f} a core, "
        f"measured on {costs.measured_on}, {costs.date}\n"
        "The head takes seconds and is left out. The log of a run shows its "
        "own speed: give it as --images_per_second."
    )


def _print_phases(
    phases: list[Phase], num_devices: int, startup: float
) -> None:
    print(
        f"{FLAGS.images} images of {FLAGS.image_size} px on "
        f"{FLAGS.num_workers} x {FLAGS.device}, {num_devices} device(s)\n"
    )
    print(f"{'phase':12} {'images':>12} {'images/s':>10} {'minutes':>8}")
    for phase in phases:
        print(
            f"{phase.name:12} {phase.passes:12} "
            f"{phase.images_per_second:10.0f} {60 * phase.hours:8.1f}"
        )
    if startup:
        print(f"{'start-up':12} {'':23} {60 * startup:8.1f}  (assumed)")


def _print_sources(
    machine: machines.Machine | None,
    speed: Speed,
    table: prices.Prices,
    num_devices: int,
    per_hour: float,
) -> None:
    print(f"  speed   {speed.source}")
    if num_devices > 1:
        print(
            f"  scaling {FLAGS.scaling_efficiency:.0%} of {num_devices} devices"
            " (assumed; --scaling_efficiency)"
        )
    names = {FLAGS.device, machine.accelerator_type if machine else ""}
    notes = sorted(names & table.unchecked)
    print(
        f"  price   ${per_hour:.3f} an hour, {table.describe()}"
        + (f", spot at {table.spot_share:.0%} (assumed)" if FLAGS.spot else "")
        + (f"; older: that of {', '.join(notes)}" if notes else "")
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    try:
        _run()
    except (ValueError, OSError) as error:
        sys.exit(f"deploy.plan: {error}")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
