"""What README.md and the pages of docs/ say to type, and where they lead."""

import json
import os
import re
import runpy
import subprocess
import sys

import pytest

from tests import documentation
from tests.samples import ROOT

# Of commands of others.
FOREIGN = {"accelerator", "logdir", "member", "role"}
# In a process of its own: several commands have flags of one name.
PARSE = """
import json, runpy, sys
from absl import flags
from trainer import startup
module, *lines = json.load(sys.stdin)
startup.run = lambda *_: None
sys.argv = [module]
runpy.run_module(module, run_name="__main__", alter_sys=True)
names = [name for name in flags.FLAGS]
wrong = []
for line in lines:
    flags.FLAGS.unparse_flags()
    try:
        flags.FLAGS([module, *line])
    except flags.Error as error:
        wrong.append(f"{module} {' '.join(line)}: {error}")
print(json.dumps([names, wrong]))
"""
COMMANDS = runpy.run_path(str(ROOT / "docs/flags.py"))["COMMANDS"]


def name_of(flag: str) -> str:
    return re.match(r"--(\w[\w-]*)", flag)[1]


@pytest.fixture(scope="module")
def parsed():
    """By module: its flags, and what it says of the lines that name it."""
    started = {}
    lines = {module: [] for module in COMMANDS}
    for module, arguments in documentation.commands():
        if module.startswith("tests."):
            continue
        if "--" in arguments:
            end = arguments.index("--")
            lines["trainer.task"].append(arguments[end + 1 :])
            arguments = arguments[:end]
        if "--help" not in arguments:
            lines[module].append(arguments)
    for module, typed in lines.items():
        started[module] = subprocess.Popen(
            [sys.executable, "-c", PARSE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started[module].stdin.write(json.dumps([module, *typed]))
        started[module].stdin.close()
        started[module].stdin = None
    return {
        module: json.loads(process.communicate()[0])
        for module, process in started.items()
    }


def test_every_command_is_found():
    modules = {module for module, _ in documentation.commands()}
    assert modules >= {
        "trainer.data.build_records",
        "trainer.task",
        "tuning.task",
        "serving.evaluate",
        "serving.local_server",
        "deploy.tpu.run",
        "tests.benchmarks.accuracy",
    }


def test_every_command_line_is_accepted(parsed):
    assert [line for _, wrong in parsed.values() for line in wrong] == []


def test_every_flag_is_one_of_the_command_that_is_named_beside_it(parsed):
    for module, flags in documentation.mentions():
        if module in parsed:
            names = {name_of(flag).removeprefix("no") for flag in flags}
            known = {name.removeprefix("no") for name in parsed[module][0]}
            assert names <= known, module


def test_every_flag_in_the_text_is_a_flag_of_some_command(parsed):
    known = {name for names, _ in parsed.values() for name in names} | {"help"}
    for text in documentation.texts().values():
        for line in text.splitlines():
            if re.search(r"gcloud|docker|tests\.benchmarks", line):
                continue
            for name in re.findall(r"(?<![\w=-])--(\w[\w-]*)", line):
                assert name.removeprefix("no") in known | FOREIGN, line


@pytest.mark.parametrize(
    ("module", "arguments"),
    [c for c in documentation.commands() if c[0].startswith("tests.")],
)
def test_benchmark_has_the_flags(module, arguments):
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    for flag in arguments:
        assert re.search(rf'"(--)?{name_of(flag)}"', source), flag


def test_every_make_target_exists():
    ci = (ROOT / ".github/workflows/ci.yml").read_text()
    text = "\n".join([*documentation.texts().values(), ci])
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    )
    named = set(re.findall(r"(?:^ {4}|`|run: )make ([a-z-]+)", text, re.M))
    assert {"demo", "test"} <= named <= targets


def test_every_link_within_the_repository_leads_somewhere():
    for name, text in documentation.texts().items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / name).parent / target).exists(), (name, target)


def test_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_site_is_built_whole_and_asks_nobody_else(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-d", str(tmp_path)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "commands/index.html").read_text()
    for flag in ("--fine_tune_epochs", "--max_trials", "--model_base_path"):
        assert flag in commands
    for path in tmp_path.rglob("*.html"):
        asked = re.findall(
            r"<(?:script|link|img)[^>]*https?:[^>]*>", path.read_text()
        )
        assert asked == [], path
