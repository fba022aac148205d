"""The only file that names strategies, TPUs and `TF_CONFIG`."""

import json
import os

import tensorflow as tf
from absl import logging

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def create_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Creates a strategy and logs what it is and why.

    Must run before any other TensorFlow op under "multi_worker" and "tpu".

    Args:
        name: one of `STRATEGIES`. "auto" takes a TPU if `TPU_NAME` names one,
            several workers if `TF_CONFIG` names a cluster, all GPUs of this
            machine if there are several, else one device.

    Raises:
        ValueError: if `name` is unknown, or there is no such hardware.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"--strategy must be one of {', '.join(STRATEGIES)}. "
            f"Received: {name}."
        )
    reason = "as --strategy says"
    if name == "auto":
        name, reason = _choose()
    strategy = _create(name)
    logging.info(
        "Strategy: %s with %d replica(s), %s.",
        name,
        strategy.num_replicas_in_sync,
        reason,
    )
    return strategy


def _choose() -> tuple[str, str]:
    if os.environ.get("TPU_NAME"):
        return "tpu", "because TPU_NAME is set"
    if _cluster_size() > 1:
        return "multi_worker", "because TF_CONFIG names a cluster"
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return "mirrored", f"because this machine has {len(gpus)} GPUs"
    device = "GPU" if gpus else "CPU"
    return "one_device", f"because this machine has one {device}"


def _cluster_size() -> int:
    """Number of training tasks that `TF_CONFIG` names, 0 without it."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 0
    try:
        cluster = json.loads(text).get("cluster", {})
        return len(cluster.get("chief", [])) + len(cluster.get("worker", []))
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(
            "TF_CONFIG must be a JSON object with `cluster` and `task`. "
            f"Received: {text[:80]!r}. Correct it, or unset it to train on "
            "this machine alone."
        ) from error


def _create(name: str) -> tf.distribute.Strategy:
    if name == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
                tpu=os.environ.get("TPU_NAME", "local")
            )
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise ValueError(
                "--strategy=tpu found no TPU: run on a TPU VM, with "
                "TPU_NAME=local or the name of the TPU."
            ) from error
        return tf.distribute.TPUStrategy(resolver)
    if name == "multi_worker":
        if not _cluster_size():
            raise ValueError(
                "--strategy=multi_worker needs TF_CONFIG to name the cluster "
                "and this task; on one machine use --strategy=mirrored."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = [d.name for d in tf.config.list_logical_devices("GPU")]
    cpus = [d.name for d in tf.config.list_logical_devices("CPU")]
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(gpus or cpus)
    return tf.distribute.OneDeviceStrategy((gpus or cpus)[0])


def describe(strategy: tf.distribute.Strategy) -> dict:
    """What a run's record says of the hardware."""
    devices = [
        {
            "type": device.device_type,
            "name": tf.config.experimental.get_device_details(device).get(
                "device_name", ""
            ),
        }
        for kind in ("CPU", "GPU", "TPU")
        for device in tf.config.list_physical_devices(kind)
    ]
    return {
        "strategy": type(strategy).__name__,
        "num_replicas": strategy.num_replicas_in_sync,
        "worker": worker_name(strategy),
        "num_cpu_cores": os.cpu_count(),
        "devices": devices,
    }


def make_deterministic() -> None:
    """Lets TensorFlow choose no op whose result differs from call to call.

    Must run before any other TensorFlow op, with a seed set.
    """
    tf.config.experimental.enable_op_determinism()


def per_replica_batch_size(
    strategy: tf.distribute.Strategy,
    global_batch_size: int,
    accumulation_steps: int = 1,
) -> int:
    """Images that a replica takes at a time.

    Args:
        strategy: says how many replicas there are.
        global_batch_size: images per step, over all replicas.
        accumulation_steps: micro-batches of a step, one after the other.

    Raises:
        ValueError: if the replicas cannot share the batch evenly.
    """
    num_replicas = strategy.num_replicas_in_sync
    num_parts = num_replicas * accumulation_steps
    if global_batch_size % num_parts == 0:
        return global_batch_size // num_parts
    lower = global_batch_size // num_parts * num_parts
    choices = [lower, lower + num_parts] if lower else [num_parts]
    rule, received = "the number of replicas", ""
    if accumulation_steps > 1:
        rule += " times --accumulation_steps"
        received = f", accumulation_steps={accumulation_steps}"
    raise ValueError(
        f"--global_batch_size must be a multiple of {rule}. Received: "
        f"global_batch_size={global_batch_size}, num_replicas={num_replicas}"
        f"{received}. Try {' or '.join(str(c) for c in choices)}."
    )


def distribute(
    strategy: tf.distribute.Strategy, make_dataset
) -> tf.distribute.DistributedDataset:
    """Spreads per-replica batches over the replicas.

    Args:
        strategy: in scope.
        make_dataset: function of `num_workers` and `worker_index` that returns
            a dataset whose elements are per-replica batches, in order.
    """
    return strategy.distribute_datasets_from_function(
        lambda context: make_dataset(
            context.num_input_pipelines, context.input_pipeline_id
        )
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what outlives the run."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if resolver.task_type == "chief":
        return True
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return (
        resolver.task_type == "worker"
        and resolver.task_id == 0
        and not has_chief
    )


def worker_name(strategy: tf.distribute.Strategy) -> str:
    """Name of this process in its cluster, for example `worker-1`."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return "worker-0"
    return f"{resolver.task_type}-{resolver.task_id}"


def check_agreement(
    strategy: tf.distribute.Strategy, digests: dict[str, str], remedy: str
) -> None:
    """Compares what all workers must share, before the first step.

    Args:
        strategy: in scope.
        digests: name -> sha256 in hex of what must be the same everywhere.
        remedy: what to do if it is not.

    Raises:
        ValueError: on every worker, naming what differs.
    """
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return
    mine = tf.constant([[int(d[:15], 16) for d in digests.values()]], tf.int64)

    @tf.function
    def compare():
        replicas = strategy.run(lambda: tf.identity(mine))
        everyone = strategy.gather(replicas, axis=0)
        return tf.reduce_all(everyone == everyone[:1], axis=0)

    same = compare().numpy()
    for name, is_same in zip(digests, same, strict=True):
        if not is_same:
            raise ValueError(
                f"The workers do not have the same {name}: {remedy}."
            )


def choose_precision(name: str) -> str:
    """A Keras dtype policy; "auto" picks what the hardware is fast at.

    bfloat16 on a TPU and on GPUs of compute capability 8 (Ampere) and above,
    float16 on GPUs from 7 on (Volta, Turing), float32 elsewhere.
    """
    if name != "auto":
        return name
    if tf.config.list_logical_devices("TPU"):
        return "mixed_bfloat16"
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get(
            "compute_capability", (0, 0)
        )
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if capabilities and min(capabilities) >= (8, 0):
        return "mixed_bfloat16"
    if capabilities and min(capabilities) >= (7, 0):
        return "mixed_float16"
    return "float32"
