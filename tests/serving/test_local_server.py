"""The server as a whole: base paths, ports, the command."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from serving import client, local_server


def test_missing_base_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        local_server.start(str(tmp_path / "nowhere"), "m")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Pass --model_base_path and --model_name, or"),
        (["--model_name=m"], "Pass --model_base_path and --model_name, or"),
        (["--model_config_file=/nowhere"], "must be a file. Received: /nowh"),
        (["--model_config_file=a", "--model_name=m"], "Pass either"),
        (
            ["--model_name=m", "--model_base_path={empty}"],
            "--model_base_path must hold a directory with a numeric name",
        ),
        (
            [
                "--engine=tensorflow_model_server",
                *("--model_name=m", "--model_base_path={saved_models}"),
            ],
            "Install TF Serving, or use --engine=local",
        ),
    ],
)
def test_command_that_cannot_serve_says_why_in_one_line(
    saved_models, tmp_path, arguments, message
):
    command = run_command(
        *(
            a.format(saved_models=saved_models, empty=tmp_path)
            for a in arguments
        ),
        env={**os.environ, "PATH": "/nowhere"},
    )
    output, errors = command.communicate(timeout=20)
    assert command.returncode == 1
    assert output == ""
    assert errors.startswith("serving.local_server: ")
    assert errors.count("\n") == 1
    assert message in errors
