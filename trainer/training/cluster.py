"""Reads what names a cluster: `TF_CONFIG`, or Vertex AI's `CLUSTER_SPEC`."""

import dataclasses
import json
import os
import re

# Roles of a cluster; Vertex AI numbers its worker pools instead.
_POOLS = {
    "workerpool0": "chief",
    "workerpool1": "worker",
    "workerpool2": "ps",
    "workerpool3": "evaluator",
}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Who takes part, and which task this process is.

    Attributes:
        tasks: role -> `host:port` of each of its tasks; chief and worker only.
        role: of this process: chief, worker or evaluator.
        index: of this process among its role.
    """

    tasks: dict[str, list[str]]
    role: str
    index: int

    @property
    def num_tasks(self) -> int:
        """Number of tasks that train."""
        return sum(map(len, self.tasks.values()))

    @property
    def addresses(self) -> str:
        return ", ".join(a for some in self.tasks.values() for a in some)


def read_cluster() -> Cluster | None:
    """What `TF_CONFIG`, or else Vertex AI's `CLUSTER_SPEC`, says.

    Returns:
        None if neither names a cluster.

    Raises:
        ValueError: if one does in a way that nobody could train with.
    """
    for variable in ("TF_CONFIG", "CLUSTER_SPEC"):
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        try:
            spec = json.loads(text)
            if not spec.get("cluster") and "task" not in spec:
                continue
            tasks = {
                _POOLS.get(role, role): list(map(str, addresses))
                for role, addresses in spec.get("cluster", {}).items()
                if addresses and not isinstance(addresses, str)
            }
            task = spec.get("task", {"type": "", "index": 0})
            role, index = str(task["type"]), int(task["index"])
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise ValueError(
                f"{variable} must be a JSON object with `cluster`, lists of "
                "host:port by role, and `task`, with `type` and `index`. "
                f"Received: {text[:80]!r}. Correct it, or unset it to train "
                "on this machine alone."
            ) from error
        role = _POOLS.get(role, role)
        _check_cluster(variable, tasks, role, index)
        tasks.pop("evaluator", None)
        return Cluster(tasks, role, index)
    return None


def _check_cluster(
    variable: str, tasks: dict[str, list[str]], role: str, index: int
) -> None:
    if "ps" in tasks or role == "ps":
        raise ValueError(
            "Training with parameter servers is not supported: leave `ps` "
            f"(Vertex AI's worker pool 2) out of {variable}; chief and worker "
            "tasks train in step."
        )
    for name in (*tasks, role):
        if name not in ("chief", "worker", "evaluator", ""):
            raise ValueError(
                f"{variable} has tasks of type {name!r}: only chief, worker "
                "and evaluator are known."
            )
    addresses = [a for some in tasks.values() for a in some]
    for address in addresses:
        if not re.fullmatch(r"\S+:\d{1,5}", address):
            raise ValueError(
                f"{variable} must give each task as host:port. Received: "
                f"{address!r}."
            )
        if addresses.count(address) > 1:
            raise ValueError(
                f"{variable} gives {address} to more than one task: each "
                "needs a host or port of its own."
            )
    sizes = {name: len(some) for name, some in tasks.items()}
    if sizes.get("chief", 0) > 1:
        raise ValueError(
            f"{variable} names {sizes['chief']} chiefs: there must be one."
        )
    # An evaluator is no part of the cluster, a machine alone needs no name.
    is_alone = len(addresses) <= 1 and not role
    if (
        role != "evaluator"
        and not is_alone
        and not (0 <= index < sizes.get(role, 0))
    ):
        raise ValueError(
            f"{variable} says that this is task {index} of type {role!r}, but "
            "its cluster has "
            f"{', '.join(f'{n} {name}' for name, n in sizes.items()) or 'none'}"
            ": give each machine its own `task`."
        )


def is_evaluator() -> bool:
    """Whether the cluster wants this process to evaluate, not to train."""
    cluster = read_cluster()
    return cluster is not None and cluster.role == "evaluator"


def is_chief() -> bool:
    """Whether this process writes what outlives the run.

    Raises:
        ValueError: if the cluster is one that nobody could train with.
    """
    cluster = read_cluster()
    if cluster is None or not cluster.role:
        return True
    if cluster.role == "worker":
        return cluster.index == 0 and "chief" not in cluster.tasks
    return cluster.role == "chief"


def find_lost_task(message: str) -> str:
    """The peer that an error of a collective op tells of, "" if it names none.

    The op's own device is in the message too, so only what the coordination
    service misses and what a connection led to count.

    Args:
        message: of a `tf.errors.OpError`.

    Returns:
        For example `worker 1`.
    """
    match = re.search(
        r"(?:heartbeats\):|remote target)\s+"
        r"/job:(\w+)/replica:\d+/task:(\d+)",
        message,
    )
    return f"{match[1]} {match[2]}" if match else ""
