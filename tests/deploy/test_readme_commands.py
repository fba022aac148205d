"""The commands of the tables "From laptop to pod" and of docs/cloud.md."""

import importlib
import re
import shlex

import pytest

from deploy import command_lines
from tests.samples import ROOT

IMAGE = "us-central1-docker.pkg.dev/project/lightbox/train:1"
README = (ROOT / "README.md").read_text().split("## From laptop to pod")[1]
TEXT = README.split("\n## ")[0] + (ROOT / "docs/cloud.md").read_text()
COMMANDS = list(
    dict.fromkeys(
        " ".join(command.split())
        for command in re.findall(
            r"`(python -m (?:deploy|trainer)[^`]*)`", TEXT
        )
    )
)
DRY_RUN = ("deploy.vertex.submit", "deploy.vertex.serve", "deploy.tpu.run")


def test_the_table_names_every_way_to_run():
    modules = {command.split()[2] for command in COMMANDS}
    assert {*DRY_RUN} <= modules


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_accepted(run, command):
    command = command.replace("BUCKET", "bucket").replace("=IMAGE", f"={IMAGE}")
    module, *arguments = shlex.split(command)[2:]
    if module == "trainer.task":
        assert command_lines.check(module, arguments)["data_dir"]
    elif module in DRY_RUN:
        flags = [word for word in arguments if not word.endswith(".jpg")]
        assert run(importlib.import_module(module), "--dry_run", *flags)
    else:
        pytest.skip(f"{module} has no dry run")
