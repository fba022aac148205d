"""The server as a whole: versions under load, ports, the command."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from serving import client, local_server, status_codes
from tests.serving import conftest
from trainer.export import versions


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_reload_under_load_fails_no_request(saved_models, tmp_path, scheme):
    shutil.copytree(saved_models / "1", tmp_path / "1")
    running = local_server.start(str(tmp_path), "m")
    targets = {"grpc": running.grpc_target, "http": running.rest_target}
    asked = client.Client(targets[scheme], "m")
    image = conftest.encode_image(204)  # Version 2 decides otherwise.
    decisions, errors, done = [], [], threading.Event()

    def ask():
        while not done.is_set():
            try:
                decisions.append(asked.predict([image])[0].decision)
            except client.ServerError as error:
                errors.append(error)

    def states():
        return {v.version: v.state for v in asked.status()}

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        # A version that never becomes whole.
        (tmp_path / "5").mkdir()
        (tmp_path / "5" / "saved_model.pb").write_bytes(b"half")
        wait_for(lambda: states().get(5) == "END")
        assert states()[1] == "AVAILABLE"
        # One that appears file by file, the graph first.
        (tmp_path / "6").mkdir()
        for name in ("saved_model.pb", "variables", "fingerprint.pb"):
            source = saved_models / "2" / name
            if source.is_dir():
                shutil.copytree(source, tmp_path / "6" / name)
            elif source.exists():
                shutil.copy(source, tmp_path / "6")
            time.sleep(0.3)
        wait_for(lambda: states().get(6) == "AVAILABLE")
        assert states()[1] == "END"
        num_before = len(decisions)
        wait_for(lambda: len(decisions) > num_before + 20)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        asked.close()
        running.stop()
    assert errors == []
    assert decisions[0] is True
    assert decisions[-1] is False


def test_warm_up_requests_are_replayed(saved_models, tmp_path):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from serving import saved_models as loader

    directory = tmp_path / "1"
    shutil.copytree(saved_models / "1", directory)
    (directory / "assets.extra").mkdir()
    path = str(directory / "assets.extra" / "tf_serving_warmup_requests")

    def write(signature_name, value):
        log = prediction_log_pb2.PredictionLog()
        request = log.predict_log.request
        request.model_spec.signature_name = signature_name
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(value, tf.float64))
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(log.SerializeToString())

    write("inverse", [[1, 2]])
    assert loader.load(str(directory), 1).version == 1
    write("inverse", [1])
    with pytest.raises(status_codes.StatusError, match="must have shape"):
        loader.load(str(directory), 1)


def test_file_that_differs_from_the_manifest_does_not_load(
    saved_models, tmp_path
):
    from serving import saved_models as loader

    directory = tmp_path / "1"
    shutil.copytree(saved_models / "1", directory)
    versions.write_manifest(str(directory), {})
    assert loader.load(str(directory), 1).version == 1
    graph = directory / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"dark", b"dork"))
    with pytest.raises(ValueError, match=r"saved_model.pb differs"):
        loader.load(str(directory), 1)


def test_missing_base_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        local_server.start(str(tmp_path / "nowhere"), "m")


def test_base_path_without_versions_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="numeric name"):
        local_server.start(str(tmp_path), "m")


def test_version_given_as_base_path_names_its_parent(saved_models):
    with pytest.raises(FileNotFoundError, match=f"pass {saved_models}"):
        local_server.start(str(saved_models / "1"), "m")


def test_damaged_first_version_is_named(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match=r"Version 1 of m does not load"):
        local_server.start(str(tmp_path), "m")


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_taken_port_is_named(saved_models, flag):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}.*--{flag}"):
            local_server.start(str(saved_models), "m", **{flag: port})


def test_ipv6_address_is_served(saved_models):
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        running = local_server.start(str(saved_models), "m", host="::1")
    except OSError:
        pytest.skip("needs an IPv6 loopback address")
    for target in (running.grpc_target, running.rest_target):
        with client.Client(target, "m") as asked:
            assert asked.status()[0].state == "AVAILABLE"
    running.stop()


def run_command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "serving.local_server", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_command_says_where_it_listens_and_stops_on_sigterm(saved_models):
    command = run_command(
        f"--model_base_path={saved_models}",
        "--model_name=m",
        "--port=0",
        "--rest_api_port=0",
    )
    line = command.stdout.readline()
    target = re.search(r"http://127.0.0.1:\d+", line)[0]
    with client.Client(target, "m") as asked:
        assert asked.status()[0].version == 2
    command.send_signal(signal.SIGTERM)
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 0
    assert "Traceback" not in errors


def test_command_with_a_bad_path_prints_one_line(tmp_path):
    command = run_command(f"--model_base_path={tmp_path}", "--model_name=m")
    output, errors = command.communicate(timeout=20)
    assert command.returncode == 1
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith("serving.local_server: --model_base_path must")


def test_other_engine_runs_with_the_same_flags(saved_models, tmp_path):
    program = tmp_path / "tensorflow_model_server"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    command = run_command(
        "--engine=tensorflow_model_server",
        f"--model_base_path={saved_models}",
        "--model_name=m",
        "--port=8510",
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    output, _ = command.communicate(timeout=20)
    assert output.split() == [
        "--port=8510",
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=30000",
        f"--model_base_path={saved_models}",
        "--model_name=m",
    ]


def test_other_engine_that_is_not_installed_is_named(saved_models):
    command = run_command(
        "--engine=tensorflow_model_server",
        f"--model_base_path={saved_models}",
        "--model_name=m",
        env={**os.environ, "PATH": "/nowhere"},
    )
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 1
    assert errors.count("\n") == 1
    assert "Install TF Serving, or use --engine=local" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Pass --model_base_path and --model_name, or"),
        (["--model_name=m"], "Pass --model_base_path and --model_name, or"),
        (["--model_config_file=/nowhere"], "must be a file. Received: /nowh"),
        (["--model_config_file=a", "--model_name=m"], "Pass either"),
    ],
)
def test_flags_that_name_no_model_are_one_sentence(arguments, message):
    command = run_command(*arguments)
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 1
    assert errors.count("\n") == 1
    assert message in errors
