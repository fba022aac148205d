"""The files that TF Serving, Prometheus and Docker Compose are started with."""

import pathlib
import re
import subprocess

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.samples import ROOT
from tests.serving.clients import CLIENTS_PYTHON

yaml = pytest.importorskip("yaml")

FOLDER = ROOT / "deploy" / "serving"


def read_yaml(name):
    return yaml.safe_load((FOLDER / name).read_text())


def parse_officially(module, message, name):
    """Returns a file as TF Serving's own proto prints it.

    These protos are not in tensorflow-serving-api but in an older client.
    """
    if not pathlib.Path(CLIENTS_PYTHON).exists():
        pytest.skip("run `make clients` first")
    script = (
        f"from {module} import {message}\n"
        "from google.protobuf import text_format\n"
        f"text = open({str(FOLDER / name)!r}).read()\n"
        f"print(text_format.Parse(text, {message}()))"
    )
    done = subprocess.run(
        [CLIENTS_PYTHON, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_config_is_a_model_server_config():
    config = text_format.Parse(
        (FOLDER / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert model.name == "brain_mri"
    assert model.model_version_policy.latest.num_versions == 1


def test_example_of_labels_in_the_comment_is_valid():
    comment = "\n".join(
        line.split("#", 1)[1]
        for line in (FOLDER / "models.config").read_text().splitlines()
        if re.match(r"\s*#\s+(model_version_policy|version_labels) \{", line)
    )
    model = text_format.Parse(comment, model_server_config_pb2.ModelConfig())
    assert dict(model.version_labels) == {"stable": 3, "canary": 4}
    assert list(model.model_version_policy.specific.versions) == [3, 4]


def test_monitoring_config_is_a_monitoring_config():
    text = parse_officially(
        "tensorflow_serving.config.monitoring_config_pb2",
        "MonitoringConfig",
        "monitoring.config",
    )
    scrape = read_yaml("prometheus.yml")["scrape_configs"][0]
    assert "enable: true" in text
    assert f'path: "{scrape["metrics_path"]}"' in text


def test_batching_config_is_batching_parameters():
    text = parse_officially(
        "tensorflow_serving.servables.tensorflow.session_bundle_config_pb2",
        "BatchingParameters",
        "batching.config",
    )
    assert re.search(r"batch_timeout_micros \{\s*value: 2000", text)


def test_batch_sizes_are_those_of_the_warm_up():
    from trainer.export import warmup

    text = (FOLDER / "batching.config").read_text()
    sizes = re.findall(r"^allowed_batch_sizes: (\d+)", text, re.MULTILINE)
    assert tuple(map(int, sizes)) == warmup.BATCH_SIZES
    (largest,) = re.findall(r"^max_batch_size \{ value: (\d+)", text, re.M)
    assert int(largest) == warmup.BATCH_SIZES[-1]


def test_compose_starts_the_server_with_files_that_exist():
    services = read_yaml("docker-compose.yml")["services"]
    serving = services["serving"]
    options = dict(
        argument.removeprefix("--").split("=", 1)
        for argument in serving["command"]
    )
    for name, value in options.items():
        if name.endswith("_config_file"):
            assert (FOLDER / value.removeprefix("/config/")).is_file()
    assert "./:/config:ro" in serving["volumes"]
    (models,) = [v for v in serving["volumes"] if ":/models/brain_mri" in v]
    assert models.endswith(":ro")
    # Nothing listens beyond this machine, and no image moves by itself.
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert re.search(r":v?\d+\.\d+", service["image"])


def test_prometheus_scrapes_the_rest_port_of_the_service():
    config = read_yaml("prometheus.yml")
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    serving = read_yaml("docker-compose.yml")["services"]["serving"]
    assert target == "serving:8501"
    assert "--rest_api_port=8501" in serving["command"]
