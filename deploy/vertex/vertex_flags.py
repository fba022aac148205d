"""Flags that both commands have."""

from absl import flags

FLAGS = flags.FLAGS


def define(machine_type: str) -> None:
    """Defines them, with the machine that a command uses if it is told none."""
    text = flags.DEFINE_string
    flags.DEFINE_bool("dry_run", False, "Print the request; send nothing.")
    text("project", "", "Project; empty: that of the credentials.")
    text("region", "us-central1", "Region that it runs in.")
    text(
        "machine_type",
        machine_type,
        "Machine of each worker or replica, for example n1-standard-8, "
        "g2-standard-8 (one L4), a2-highgpu-1g (one A100).",
    )
    text(
        "accelerator_type",
        "",
        "Its accelerator, for example NVIDIA_TESLA_T4 on n1, NVIDIA_L4 on g2, "
        "NVIDIA_TESLA_A100 on a2, TPU_V3 on cloud-tpu; empty: none.",
    )
    flags.DEFINE_integer("accelerator_count", 1, "Of each machine, if any.", 1)
    text("service_account", "", "Of the containers; empty: Vertex AI's own.")
    text(
        "kms_key",
        "",
        "Cloud KMS key (CMEK): projects/…/locations/REGION/keyRings/…/"
        "cryptoKeys/…; buckets have keys of their own.",
    )


def machine() -> dict:
    """What the flags say of the machine, in the names of a MachineSpec."""
    spec = {"machine_type": FLAGS.machine_type}
    if FLAGS.accelerator_type:
        spec["accelerator_type"] = FLAGS.accelerator_type
        spec["accelerator_count"] = FLAGS.accelerator_count
    return spec
