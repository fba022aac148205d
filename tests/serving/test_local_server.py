"""The server as a whole: base paths, ports, the command."""

import os
import re
import signal
import socket

import pytest

from serving import client, local_server
from tests import processes


def test_base_path_that_cannot_be_served_is_named(saved_models, tmp_path):
    (tmp_path / "1").mkdir()
    for path, kind, message in (
        (tmp_path / "nowhere", FileNotFoundError, "nowhere"),
        (saved_models / "1", FileNotFoundError, f"pass {saved_models}"),
        (tmp_path, ValueError, "Version 1 of m does not load"),
    ):
        with pytest.raises(kind, match=message):
            local_server.start(str(path), "m")


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_taken_port_is_named(saved_models, flag):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}.*--{flag}"):
            local_server.start(str(saved_models), "m", **{flag: port})


def test_ipv6_address_is_served(saved_models):
    try:
        running = local_server.start(str(saved_models), "m", host="::1")
    except OSError:
        pytest.skip("needs an IPv6 loopback address")
    for target in (running.grpc_target, running.rest_target):
        with client.Client(target, "m") as asked:
            assert asked.status()[0].state == "AVAILABLE"
    running.stop()


def test_command_says_where_it_listens_and_stops_on_sigterm(saved_models):
    command = processes.Command(
        "serving.local_server",
        f"--model_base_path={saved_models}",
        *("--model_name=m", "--port=0", "--rest_api_port=0"),
    )
    target = re.search(r"http://127.0.0.1:\d+", command.read_line())[0]
    with client.Client(target, "m") as asked:
        assert asked.status()[0].version == 2
    command.send_signal(signal.SIGTERM)
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 0
    assert "Traceback" not in errors


def test_other_engine_runs_with_the_same_flags(saved_models, tmp_path):
    program = tmp_path / "tensorflow_model_server"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    base_path = f"--model_base_path={saved_models}"
    done = processes.run(
        *("serving.local_server", "--engine=tensorflow_model_server"),
        *(base_path, "--model_name=m", "--port=8510"),
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stdout.split() == [
        *("--port=8510", "--rest_api_port=8501"),
        *("--rest_api_timeout_in_ms=30000", base_path, "--model_name=m"),
    ]
