"""Which machines Vertex AI trains on, and which accelerators they carry.

The API accepts any pair and fails after minutes in the queue; this table is
what its documentation allows for custom training ("Configure compute
resources", "Training with TPU accelerators"), as of 2026-08.
"""

import dataclasses
import re

# google.cloud.aiplatform.constants.base.SUPPORTED_REGIONS, a test compares.
REGIONS = frozenset(
    (
        "africa-south1",
        "asia-east1",
        "asia-east2",
        "asia-northeast1",
        "asia-northeast2",
        "asia-northeast3",
        "asia-south1",
        "asia-south2",
        "asia-southeast1",
        "asia-southeast2",
        "australia-southeast1",
        "australia-southeast2",
        "europe-central2",
        "europe-north1",
        "europe-north2",
        "europe-southwest1",
        "europe-west1",
        "europe-west2",
        "europe-west3",
        "europe-west4",
        "europe-west6",
        "europe-west8",
        "europe-west9",
        "europe-west12",
        "me-central1",
        "me-central2",
        "me-west1",
        "northamerica-northeast1",
        "northamerica-northeast2",
        "southamerica-east1",
        "southamerica-west1",
        "us-central1",
        "us-east1",
        "us-east4",
        "us-east5",
        "us-east7",
        "us-south1",
        "us-west1",
        "us-west2",
        "us-west3",
        "us-west4",
        "us-west8",
    )
)

# Machines whose GPUs are built in: type -> (accelerator, how many).
_BUILT_IN = {
    **{f"g2-standard-{n}": ("NVIDIA_L4", 1) for n in (4, 8, 12, 16, 32)},
    "g2-standard-24": ("NVIDIA_L4", 2),
    "g2-standard-48": ("NVIDIA_L4", 4),
    "g2-standard-96": ("NVIDIA_L4", 8),
    **{f"a2-highgpu-{n}g": ("NVIDIA_TESLA_A100", n) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    **{f"a2-ultragpu-{n}g": ("NVIDIA_A100_80GB", n) for n in (1, 2, 4, 8)},
    **{f"a3-highgpu-{n}g": ("NVIDIA_H100_80GB", n) for n in (1, 2, 4, 8)},
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": ("NVIDIA_B200", 8),
}

# GPUs that can be attached to N1 machines: counts, most vCPUs for each GPU.
_ATTACHABLE = {
    "NVIDIA_TESLA_T4": ((1, 2, 4), 24),
    "NVIDIA_TESLA_P4": ((1, 2, 4), 24),
    "NVIDIA_TESLA_P100": ((1, 2, 4), 16),
    "NVIDIA_TESLA_V100": ((1, 2, 4, 8), 12),
}

_CPU_ONLY = re.compile(
    r"(e2|n2|n2d|c2|c2d|c3|m1)-(standard|highmem|highcpu|ultramem|megamem)-\d+"
)
_N1 = re.compile(r"n1-(?:standard|highmem|highcpu)-(\d+)")

# TPU v5e machines -> the topology of the chips of one machine.
_TPU_V5E = {
    "ct5lp-hightpu-1t": "1x1",
    "ct5lp-hightpu-4t": "2x2",
    "ct5lp-hightpu-8t": "2x4",
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """What one worker runs on.

    Attributes:
        machine_type: for example n1-standard-8.
        accelerator_type: as in the API's AcceleratorType, "" for none.
        accelerator_count: of one machine.
        tpu_topology: of a TPU v5e machine, "" otherwise.
    """

    machine_type: str
    accelerator_type: str = ""
    accelerator_count: int = 0
    tpu_topology: str = ""

    @property
    def is_tpu(self) -> bool:
        return self.machine_type == "cloud-tpu" or (
            self.machine_type in _TPU_V5E
        )


def complete(machine: Machine) -> Machine:
    """Fills in what follows from the machine type and was not given."""
    accelerator, count = machine.accelerator_type, machine.accelerator_count
    if machine.machine_type in _BUILT_IN and not accelerator:
        accelerator, built_in = _BUILT_IN[machine.machine_type]
        count = count or built_in
    elif accelerator and not count:
        count = 8 if machine.machine_type == "cloud-tpu" else 1
    topology = machine.tpu_topology or _TPU_V5E.get(machine.machine_type, "")
    return Machine(machine.machine_type, accelerator, count, topology)


def num_devices(machine: Machine) -> int:
    """Replicas that one machine makes."""
    if machine.tpu_topology:
        rows, columns = machine.tpu_topology.split("x")
        return int(rows) * int(columns)
    return max(1, machine.accelerator_count)


def find_problem(machine: Machine) -> str:
    """A sentence on why Vertex AI cannot train on it, "" if it can."""
    kind, accelerator = machine.machine_type, machine.accelerator_type
    count = machine.accelerator_count
    if not kind:
        return "--machine_type must be given, for example n1-standard-8."
    if bool(accelerator) != bool(count):
        return (
            "--accelerator_type and --accelerator_count must be given "
            "together. "
            f"Received: accelerator_type={accelerator or 'none'}, "
            f"accelerator_count={count}."
        )
    if machine.is_tpu or accelerator.startswith("TPU"):
        return _find_tpu_problem(machine)
    if kind.startswith(("ct6e-", "ct4p-", "tpu7x-")):
        return (
            f"machine_type={kind} has a TPU that TensorFlow does not run on at "
            "Vertex AI: use a TPU v5e (ct5lp-hightpu-8t) or v3 (cloud-tpu)."
        )
    if machine.tpu_topology:
        return (
            "--tpu_topology is for TPU v5e machines. Received: tpu_topology="
            f"{machine.tpu_topology}, machine_type={kind}."
        )
    if kind in _BUILT_IN:
        if (accelerator, count) != _BUILT_IN[kind]:
            name, built_in = _BUILT_IN[kind]
            return (
                f"machine_type={kind} carries {built_in} {name}. Received: "
                f"accelerator_type={accelerator or 'none'}, "
                f"accelerator_count={count}."
            )
        return ""
    match = _N1.fullmatch(kind)
    if match:
        return _find_n1_problem(machine, int(match[1]))
    if not _CPU_ONLY.fullmatch(kind):
        return (
            f"machine_type={kind} is none that Vertex AI trains on: use for "
            "example n1-standard-8, g2-standard-8 (one L4), a2-highgpu-1g (one "
            "A100) or a3-highgpu-8g (eight H100)."
        )
    if accelerator:
        return (
            f"machine_type={kind} takes no accelerator. Received: "
            f"accelerator_type={accelerator}. Use n1-standard-8 with a T4, or "
            "g2-standard-8, which has an L4."
        )
    return ""


def _find_n1_problem(machine: Machine, num_cpus: int) -> str:
    accelerator, count = machine.accelerator_type, machine.accelerator_count
    if num_cpus not in (2, 4, 8, 16, 32, 64, 96):
        return (
            f"machine_type={machine.machine_type} does not exist: N1 machines "
            "have 2, 4, 8, 16, 32, 64 or 96 vCPUs."
        )
    if not accelerator:
        return ""
    if accelerator not in _ATTACHABLE:
        carriers = sorted(
            k for k, v in _BUILT_IN.items() if v[0] == accelerator
        )
        remedy = (
            f"it is built into {', '.join(carriers)}"
            if carriers
            else f"choose one of {', '.join(_ATTACHABLE)}"
        )
        return (
            f"accelerator_type={accelerator} cannot be attached to "
            f"{machine.machine_type}: {remedy}."
        )
    counts, cpus_each = _ATTACHABLE[accelerator]
    fitting = [n for n in counts if n * cpus_each >= num_cpus]
    if count not in fitting:
        return (
            f"machine_type={machine.machine_type} takes "
            f"{' or '.join(map(str, fitting))} {accelerator}. Received: "
            f"accelerator_count={count}."
        )
    return ""


def _find_tpu_problem(machine: Machine) -> str:
    kind, accelerator = machine.machine_type, machine.accelerator_type
    if kind == "cloud-tpu":
        if accelerator not in ("TPU_V2", "TPU_V3"):
            return (
                "machine_type=cloud-tpu needs --accelerator_type=TPU_V2 or "
                "TPU_V3. "
                f"Received: accelerator_type={accelerator or 'none'}."
            )
        if machine.accelerator_count != 8:
            return (
                "Training runs on the 8 cores of one TPU machine, not on a "
                "pod: --accelerator_count must be 8. Received: "
                f"accelerator_count={machine.accelerator_count}."
            )
        if machine.tpu_topology:
            return (
                "--tpu_topology is for TPU v5e machines; TPU_V2 and TPU_V3 "
                "have --accelerator_count instead."
            )
        return ""
    if kind not in _TPU_V5E:
        return (
            f"accelerator_type={accelerator} needs machine_type=cloud-tpu, and "
            f"a TPU v5e one of {', '.join(_TPU_V5E)}. Received: "
            f"machine_type={kind}."
        )
    if accelerator:
        return (
            f"machine_type={kind} says itself which TPU it has: leave out "
            f"--accelerator_type. Received: accelerator_type={accelerator}."
        )
    if machine.tpu_topology != _TPU_V5E[kind]:
        return (
            f"machine_type={kind} needs tpu_topology={_TPU_V5E[kind]}, the "
            "chips of one machine: training does not run on slices of several. "
            f"Received: tpu_topology={machine.tpu_topology or 'none'}."
        )
    return ""
