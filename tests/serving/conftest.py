"""Two saved versions of a tiny model, and one server for all tests."""

import shutil

import grpc
import pytest

from tests.serving import brightness


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory):
    """Returns a directory with versions 1 and 2; 2 decides at 0.9."""
    directory = tmp_path_factory.mktemp("saved_models")
    brightness.save_versions(directory)
    return directory


@pytest.fixture(scope="session")
def server(saved_models, tmp_path_factory):
    """Returns a running server of version 1."""
    from serving import local_server

    base_path = tmp_path_factory.mktemp("model_base_path")
    shutil.copytree(saved_models / "1", base_path / "1")
    running = local_server.start(str(base_path), brightness.MODEL_NAME)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def rest_target(server):
    return server.rest_target


@pytest.fixture(scope="session")
def channel(server):
    options = [("grpc.max_send_message_length", -1)]
    address = f"127.0.0.1:{server.grpc_port}"
    with grpc.insecure_channel(address, options) as opened:
        yield opened
