"""Clients that others have written, unchanged, against the local server."""

import base64
import json
import pathlib
import shutil
import subprocess

import pytest

from serving import local_server
from tests.serving import brightness, clients


def test_curl_gets_an_answer(rest_target):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    b64 = base64.b64encode(brightness.encode_image(204)).decode()
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error"),
            *("--write-out", "%{http_code}", "--data", "@-"),
            f"{rest_target}/v1/models/{brightness.MODEL_NAME}:predict",
        ],
        input=json.dumps({"instances": [{"b64": b64}]}),
        capture_output=True,
        text=True,
    )
    body, status = done.stdout[:-3], done.stdout[-3:]
    assert status == "200"
    assert json.loads(body)["predictions"][0]["label"] == "bright"


@pytest.fixture(scope="module")
def numbers_server(tmp_path_factory):
    """A server of a model whose default signature takes numbers."""
    import tensorflow as tf

    module, signatures = brightness.build_module(0.5)
    base_path = tmp_path_factory.mktemp("numbers")
    tf.saved_model.save(
        module,
        str(base_path / "1"),
        signatures={"serving_default": signatures["inverse"]},
    )
    running = local_server.start(str(base_path), "inverse")
    yield running
    running.stop()


def test_min_tfs_client_gets_answers_and_errors(numbers_server):
    """A package from PyPI, of 2020, with protos of its own."""
    if not pathlib.Path(clients.CLIENTS_PYTHON).exists():
        pytest.skip("run `make clients` first")
    program = pathlib.Path(__file__).with_name("min_tfs_client_calls.py")
    done = subprocess.run(
        [clients.CLIENTS_PYTHON, str(program), str(numbers_server.grpc_port)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[[1.0, 0.25], [-0.5, 2.0]]",
        "NOT_FOUND Servable not found for request: Latest(x)",
        "INVALID_ARGUMENT Signature input alias: x not found in request and no "
        "default value provided. Inputs expected to be in the request {z}",
        "INVALID_ARGUMENT Expects arg[0] to be double but int32 is provided",
    ]
