"""The only file that names strategies and TPUs; `cluster` reads `TF_CONFIG`."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from trainer.training.cluster import read_cluster


def create_strategy(
    name: str = "auto", cluster_timeout_s: float = 600.0
) -> tf.distribute.Strategy:
    """Creates a strategy and logs what it is and why.

    Must run before any other TensorFlow op under "multi_worker" and "tpu".

    Args:
        name: a value of --strategy. "auto" takes a TPU if `TPU_NAME` names one
            or this machine has one, several workers if `TF_CONFIG` or Vertex
            AI's `CLUSTER_SPEC` names a cluster, all GPUs of this machine if
            there are several, else one device.
        cluster_timeout_s: seconds to wait for the other workers; the process
            then ends.

    Raises:
        ValueError: if there is no such hardware, or the cluster is not one to
            train on.
    """
    reason = "as --strategy says"
    if name == "auto":
        name, reason = _choose()
    strategy = _create(name, cluster_timeout_s)
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
    if tf.config.list_physical_devices("TPU"):
        return "tpu", "because this machine has a TPU"
    cluster = read_cluster()
    if cluster and cluster.num_tasks > 1:
        return (
            "multi_worker",
            f"because the environment names {cluster.num_tasks} workers",
        )
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return "mirrored", f"because this machine has {len(gpus)} GPUs"
    return "one_device", f"because this machine has {'a' if gpus else 'no'} GPU"


def _create(name: str, cluster_timeout_s: float) -> tf.distribute.Strategy:
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
        return _create_multi_worker(cluster_timeout_s)
    gpus = [d.name for d in tf.config.list_logical_devices("GPU")]
    cpus = [d.name for d in tf.config.list_logical_devices("CPU")]
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(gpus or cpus)
    return tf.distribute.OneDeviceStrategy((gpus or cpus)[0])


def _create_multi_worker(timeout_s: float) -> tf.distribute.Strategy:
    cluster = read_cluster()
    if cluster is None or not cluster.role:
        raise ValueError(
            "--strategy=multi_worker needs TF_CONFIG to name the cluster and "
            "this task; on one machine use --strategy=mirrored."
        )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster.tasks),
        task_type=cluster.role,
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    logging.info("Waiting for all of %s.", cluster.addresses)

    try:
        with _ends_after(
            timeout_s,
            f"{cluster.role} {cluster.index}: not all of {cluster.addresses} "
            f"could be reached within {timeout_s:.0f} s: start all of them, "
            "check the addresses and the firewall, or raise "
            "--cluster_timeout_s.\n",
        ):
            return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except tf.errors.OpError as error:
        raise ValueError(
            f"{cluster.role} {cluster.index} could not join "
            f"{cluster.addresses} ({error.message.splitlines()[0]}): start "
            "all of them anew."
        ) from error


@contextlib.contextmanager
def _ends_after(timeout_s: float, message: str) -> Iterator[None]:
    """Ends this process with a message if the block takes too long.

    TensorFlow waits for its peers without an end and holds the interpreter's
    lock meanwhile (measured on 2.21): no thread, exception or SIGTERM gets
    through. Another process can.
    """
    watcher = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _WATCHER,
            str(os.getpid()),
            str(timeout_s),
            message,
        ],
        stdin=subprocess.PIPE,
    )
    try:
        yield
    finally:
        watcher.stdin.close()
        watcher.wait()


# Its input ends when the block is left, and when this process dies.
_WATCHER = """
import os, select, signal, sys
ended, _, _ = select.select([0], [], [], float(sys.argv[2]))
if not ended:
    sys.stderr.write(sys.argv[3])
    sys.stderr.flush()
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


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
    numbers = tf.constant(
        [[int(d[:15], 16) for d in digests.values()]], tf.int64
    )

    @tf.function(autograph=False)
    def compare():
        replicas = strategy.run(lambda: tf.identity(numbers))
        everyone = strategy.gather(replicas, axis=0)
        return tf.reduce_all(everyone == everyone[:1], axis=0)

    same = compare().numpy()
    for name, is_same in zip(digests, same, strict=True):
        if not is_same:
            raise ValueError(
                f"The workers do not have the same {name}: {remedy}."
            )


def all_agree(strategy: tf.distribute.Strategy, answer: bool) -> bool:
    """Whether all workers answer yes."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return answer

    @tf.function(autograph=False)
    def gather():
        # Between processes collectives carry numbers, not truth values.
        answers = strategy.run(lambda: tf.constant([int(answer)], tf.int32))
        return tf.reduce_all(strategy.gather(answers, axis=0) == 1)

    return bool(gather())


def from_chief(
    strategy: tf.distribute.Strategy, arrays: list[np.ndarray]
) -> list[np.ndarray]:
    """The chief's arrays, on all workers.

    Args:
        strategy: of this process.
        arrays: float32, of the same shapes on all workers.
    """
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return arrays
    # The first number says whose they are.
    payload = tf.constant(
        np.concatenate([[is_chief(strategy)], *map(np.ravel, arrays)]),
        tf.float32,
    )

    @tf.function(autograph=False)
    def gather():
        replicas = strategy.run(lambda: payload[tf.newaxis])
        everyone = strategy.gather(replicas, axis=0)
        return everyone[tf.argmax(everyone[:, 0])]

    ends = np.cumsum([1, *(a.size for a in arrays)])
    parts = np.split(gather().numpy(), ends[:-1])[1:]
    return [p.reshape(a.shape) for p, a in zip(parts, arrays, strict=True)]


def choose_precision(name: str) -> str:
    """A Keras dtype policy; "auto" picks what the hardware is fast at.

    bfloat16 on a TPU and on GPUs of compute capability 8 (Ampere) and above,
    float16 on GPUs from 7 on (Volta, Turing), float32 elsewhere.
    """
    if name != "auto":
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        if name == "mixed_float16" and not has_gpu:
            logging.warning(
                "--precision=mixed_float16 is slower than float32 without a "
                "GPU: use --precision=auto."
            )
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
