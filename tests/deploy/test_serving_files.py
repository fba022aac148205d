"""The files that TF Serving, Prometheus and Docker Compose are started with."""

import pathlib
import re
import subprocess

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.samples import ROOT
from tests.serving.clients import CLIENTS_PYTHON
from trainer.export import warmup

yaml = pytest.importorskip("yaml")

FOLDER = ROOT / "deploy" / "serving"


def read_yaml(name):
    return yaml.safe_load((FOLDER / name).read_text())


def test_models_config_is_a_model_server_config():
    config = text_format.Parse(
        (FOLDER / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert model.name == "classifier"
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


@pytest.mark.parametrize(
    ("name", "module", "message", "pattern"),
    [
        (
            "monitoring.config",
            "tensorflow_serving.config.monitoring_config_pb2",
            "MonitoringConfig",
            r"enable: true\s*path: \"METRICS_PATH\"",
        ),
        (
            "batching.config",
            "tensorflow_serving.servables.tensorflow.session_bundle_config_pb2",
            "BatchingParameters",
            r"batch_timeout_micros \{\s*value: 2000",
        ),
    ],
)
def test_config_is_what_the_server_reads(name, module, message, pattern):
    """By TF Serving's own proto, which an older client than ours has."""
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
    (scraped,) = read_yaml("prometheus.yml")["scrape_configs"]
    pattern = pattern.replace("METRICS_PATH", scraped["metrics_path"])
    assert re.search(pattern, done.stdout)


def test_batch_sizes_are_those_of_the_warm_up():
    text = (FOLDER / "batching.config").read_text()
    sizes = re.findall(r"^allowed_batch_sizes: (\d+)", text, re.MULTILINE)
    assert tuple(map(int, sizes)) == warmup.BATCH_SIZES
    (largest,) = re.findall(r"^max_batch_size \{ value: (\d+)", text, re.M)
    assert int(largest) == warmup.BATCH_SIZES[-1]


def assert_confined(service):
    """A container without root, with a bound on its memory."""
    user = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["user"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert service["mem_limit"] and service["mem_reservation"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_compose_starts_the_server_with_files_that_exist_and_scrapes_it():
    services = read_yaml("docker-compose.yml")["services"]
    serving = services["serving"]
    for argument in serving["command"]:
        name, value = argument.split("=", 1)
        if name.endswith("_config_file"):
            assert (FOLDER / value.removeprefix("/config/")).is_file()
    # As many threads as cores.
    kinds = ("intra", "inter")
    threads = {
        f"--tensorflow_{k}_op_parallelism={serving['cpus']}" for k in kinds
    }
    assert threads <= {*serving["command"]}
    assert "./:/config:ro" in serving["volumes"]
    (models,) = [v for v in serving["volumes"] if ":/models/classifier" in v]
    assert models.endswith(":ro")
    # Nothing listens beyond this machine, and no image moves by itself.
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert re.fullmatch(
            r"\$\{\w+_IMAGE:-[\w/]+:v?\d+\.\d+\.\d+\}", service["image"]
        )
        assert_confined(service)
    (scraped,) = read_yaml("prometheus.yml")["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["serving:8501"]}]
    assert "--rest_api_port=8501" in serving["command"]
