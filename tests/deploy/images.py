"""What the training images install can train: `make test-images`.

`make test` leaves this file alone, for its gigabytes of packages. It takes a
Dockerfile's own RUN, COPY and ENTRYPOINT to a fresh environment. The base image
and the device are left out: tensorflow-tpu, too, trains on the CPU here.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.deploy.test_docker_files import DEVICES, instructions
from tests.samples import ROOT

COMMANDS = (
    "trainer.data.sample_data --output_dir=scans --num_images=60"
    " --image_size=64",
    "trainer.data.build_records --input_dir=scans --output_dir=records",
    "trainer.task --data_dir=records --job_dir=run --weights=none"
    " --image_size=32 --fine_tune_epochs=1 --strategy=one_device",
)


@pytest.fixture
def place(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("device", DEVICES)
def test_image_installs_its_pins_and_trains(device, place):
    name = "train-tpu" if device == "tpu" else "train"
    steps = instructions(f"{name}.Dockerfile")
    last = dict(steps)
    for key, value in steps:
        if key == "COPY":
            *sources, target = value.replace("${DEVICE}", device).split()
            for source in sources:
                copy = shutil.copytree if target != "./" else shutil.copy
                copy(ROOT / source, place / target)
    python = re.search(r"PYTHON_IMAGE=python:(\d+\.\d+)\.", str(steps))[1]
    environment = os.environ | {
        "PATH": f"{place / 'venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "DEVICE": device,
        # libtpu would ask the machine for its TPU for minutes.
        "TPU_LOAD_LIBRARY": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    for command in (
        f"{sys.executable} -m uv venv --seed --python={python} venv".split(),
        ["bash", "-ec", last["RUN"]],
        *([*json.loads(last["ENTRYPOINT"]), *x.split()] for x in COMMANDS),
    ):
        subprocess.run(command, cwd=place, env=environment, check=True)
    assert list(place.glob("run/export/*/saved_model.pb"))
