"""A sweep in several processes: a chief that knows, workers that train.

They speak keras-tuner's own protocol and find each other by its variables
`KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`; a
worker needs the records, and nothing of the chief's job directory. Numbers
travel as text, as the protocol would round them.
keras-tuner's chief waits for ever for a worker that has died; this one takes
the trial of a worker that is silent back and hands it to another.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import numpy as np
from absl import logging
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_chief
from keras_tuner.src.engine import trial as trial_module

from trainer import config, train
from tuning import report, trial_queue, tuner

CHIEF = "chief"
HEARTBEAT_S = 1.0
# Of a worker: a trial takes less than a second, a pause of the machine more.
SILENCE_S = 20.0
_POLL_S = 0.1
# A chief that is there answers in milliseconds.
_CALL_TIMEOUT_S = 30.0
_GRACE_S = 5.0


def role() -> str:
    """`chief`, a worker's name, or "" outside of a distributed sweep."""
    return os.environ.get("KERASTUNER_TUNER_ID", "")


def _address() -> str:
    try:
        return (
            f"{os.environ['KERASTUNER_ORACLE_IP']}:"
            f"{int(os.environ['KERASTUNER_ORACLE_PORT'])}"
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            "KERASTUNER_TUNER_ID makes this process a part of a distributed "
            "sweep: KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT must be "
            "the address of its chief."
        ) from error


def _pack(trial_id: str, status: str, **texts: str):
    """A trial of the protocol with texts in the place of hyperparameters."""
    packed = protos.get_proto().Trial(
        trial_id=trial_id, status=trial_module.TrialStatus.to_proto(status)
    )
    for name, text in texts.items():
        packed.hyperparameters.values.values[name].string_value = text
    return packed


def _unpack(packed, name: str) -> str:
    return packed.hyperparameters.values.values[name].string_value


class _Servicer(oracle_chief.OracleServicer):
    """Answers workers and keeps what they found."""

    def __init__(self, queue: trial_queue.TrialQueue, job_dir: str):
        self._queue = queue
        self._job_dir = job_dir
        self.is_over = False

    def CreateTrial(self, request, context):
        trial = self._queue.next_trial(request.tuner_id)
        if trial.status == trial_module.TrialStatus.STOPPED:
            self.is_over = True
        values = trial.hyperparameters.values
        return protos.get_service().CreateTrialResponse(
            trial=_pack(trial.trial_id, trial.status, values=json.dumps(values))
        )

    def UpdateTrial(self, request, context):
        """A worker's sign of life, while it runs a trial."""
        worker = self._queue.worker_of(request.trial_id)
        if worker:
            self._queue.saw(worker)
        return protos.get_service().UpdateTrialResponse()

    def EndTrial(self, request, context):
        trial_id = request.trial.trial_id
        logits = json.loads(_unpack(request.trial, "logits"))
        if logits is not None:
            logits = np.array(logits, np.float32)
        tuner.write_logits(self._job_dir, trial_id, logits)
        outcome = json.loads(_unpack(request.trial, "outcome"))
        self._queue.end_trial(trial_id, outcome)
        return protos.get_service().EndTrialResponse()


def run_chief(
    cfg: config.TrainConfig, options: tuner.SweepOptions, num_workers: int = 0
) -> dict:
    """Serves trials until all have ended, and writes the result.

    Args:
        cfg: of the runs that the sweep is for.
        options: of the sweep.
        num_workers: processes to start on this machine; 0 if the workers are
            started elsewhere.

    Returns:
        What `tuner.finish` does.

    Raises:
        ValueError: if all workers of this machine have died.
    """
    tuner.claim(cfg, options)
    queue = tuner.make_queue(cfg, options)
    # Before the workers start: they find the features in the cache.
    strategy = train.set_up(cfg)
    data = tuner.load_data(cfg, options, strategy)
    environment = dict(os.environ)
    # Workers silence TensorFlow themselves.
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if num_workers:
        address = _local_address()
        environment |= address
        os.environ |= address
    servicer = _Servicer(queue, cfg.job_dir)
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16),
        # Logits of all images come in one message.
        options=[("grpc.max_receive_message_length", -1)],
    )
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(_address())
    except RuntimeError as error:
        raise ValueError(
            f"{_address()} cannot be listened at: choose a free "
            "KERASTUNER_ORACLE_PORT."
        ) from error
    server.start()
    if num_workers:
        # Each has a share of the cores: threads of all on all would wait for
        # each other.
        num_threads = str(max(1, (os.cpu_count() or 1) // num_workers))
        environment["TF_NUM_INTRAOP_THREADS"] = num_threads
        environment["TF_NUM_INTEROP_THREADS"] = num_threads
    workers = [
        _start_worker(cfg, environment, f"worker-{i}")
        for i in range(num_workers)
    ]
    try:
        _serve(queue, servicer, options, workers)
    finally:
        server.stop(_GRACE_S if servicer.is_over else 0).wait()
        for worker in workers:
            if servicer.is_over:
                worker.wait()
            worker.kill()
            worker.wait()
    return tuner.finish(cfg, options, strategy, data, queue.finished)


def _serve(queue, servicer, options, workers) -> None:
    table = report.LiveTable(options, queue.finished)
    num_shown = len(queue.finished)
    dead = set()
    while True:
        finished = queue.finished
        for event in finished[num_shown:]:
            table.add(event, queue.values_of(event["trial"]))
        num_shown = len(finished)
        if servicer.is_over and not queue.num_running:
            # The others ask every moment whether there is something to do.
            time.sleep(10 * _POLL_S)
            return
        for i, worker in enumerate(workers):
            if worker.poll() not in (None, 0) and i not in dead:
                dead.add(i)
                logging.warning(
                    "worker-%d ended with code %d: its trial goes to another.",
                    i,
                    worker.returncode,
                )
                queue.release(f"worker-{i}")
        if workers and len(dead) == len(workers):
            raise ValueError(
                "all workers have ended: see what they said; the same command "
                "continues with the trials that are left."
            )
        for name in queue.release_silent(SILENCE_S):
            logging.warning(
                "%s has been silent for %.0f s: its trial goes to another.",
                name,
                SILENCE_S,
            )
        time.sleep(_POLL_S)


def _local_address() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
    }


def _start_worker(
    cfg: config.TrainConfig, environment: dict, name: str
) -> subprocess.Popen:
    # What is from Cloud Storage is on this machine already.
    here = [
        f"--{flag}={getattr(cfg, flag)}"
        for flag in ("data_dir", "job_dir", "features_dir", "weights")
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "tuning.task", *sys.argv[1:], *here],
        env=environment | {"KERASTUNER_TUNER_ID": name},
        stdout=subprocess.DEVNULL,
    )


def run_worker(
    cfg: config.TrainConfig, options: tuner.SweepOptions, name: str
) -> None:
    """Runs the trials that the chief hands out until there are no more.

    Raises:
        ValueError: if there is no chief, or no longer.
    """
    channel = grpc.insecure_channel(_address())
    try:
        grpc.channel_ready_future(channel).result(cfg.cluster_timeout_s)
    except grpc.FutureTimeoutError as error:
        raise ValueError(
            f"{name}: the chief at {_address()} did not answer within "
            f"{cfg.cluster_timeout_s} s: start it, or raise "
            "--cluster_timeout_s."
        ) from error
    stub = protos.get_service_grpc().OracleStub(channel)
    service = protos.get_service()
    data = tuner.load_data(cfg, options, train.set_up(cfg))
    try:
        while True:
            response = stub.CreateTrial(
                service.CreateTrialRequest(tuner_id=name),
                timeout=_CALL_TIMEOUT_S,
            )
            status = trial_module.TrialStatus.from_proto(response.trial.status)
            if status == trial_module.TrialStatus.STOPPED:
                return
            if status == trial_module.TrialStatus.IDLE:
                time.sleep(_POLL_S)
                continue
            ended = _run_beating(cfg, options, data, response.trial, stub)
            stub.EndTrial(
                service.EndTrialRequest(trial=ended), timeout=_CALL_TIMEOUT_S
            )
    except grpc.RpcError as error:
        raise ValueError(
            f"{name}: the chief at {_address()} is gone ({error.code().name}): "
            "start the sweep again; it continues with the trials that are left."
        ) from error


def _run_beating(cfg, options, data, packed, stub):
    """Runs a trial; meanwhile the chief hears that this worker is alive."""
    trial_id = packed.trial_id
    ended = threading.Event()

    def beat():
        while not ended.wait(HEARTBEAT_S):
            try:
                stub.UpdateTrial(
                    protos.get_service().UpdateTrialRequest(trial_id=trial_id),
                    timeout=_CALL_TIMEOUT_S,
                )
            except grpc.RpcError:
                return  # the next call of the main thread tells

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        outcome, logits = tuner.run_one(
            cfg, options, data, json.loads(_unpack(packed, "values"))
        )
    finally:
        ended.set()
        thread.join()
    return _pack(
        trial_id,
        trial_module.TrialStatus.COMPLETED,
        outcome=json.dumps(outcome),
        logits=json.dumps(None if logits is None else logits.tolist()),
    )
