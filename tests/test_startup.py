"""What users set for other work does not reach a command."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from tests.samples import ROOT
from trainer import startup

CODE = """
from absl import flags
from trainer import startup

flags.DEFINE_string("place", "", "A path.")

def main(_):
    startup.import_keras()
    import keras
    from trainer.report import plots
    c = keras.config
    print(c.backend(), c.floatx(), c.image_data_format(), c.epsilon())
    print(keras.layers.Dense(1).dtype_policy.name)
    print(flags.FLAGS.place, "f\u00fcr \u80bf\u7624")

startup.run(main)
"""


def test_surroundings_of_a_command_neither_change_nor_end_it(
    tmp_path,
):
    settings = {
        "backend": "jax",
        "floatx": "float16",
        "image_data_format": "channels_first",
        "epsilon": 1e-3,
    }
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-c", CODE, "--place=~/x"],
        cwd=ROOT,
        env=os.environ
        | {
            "KERAS_HOME": str(tmp_path),
            "KERAS_BACKEND": "torch",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONIOENCODING": "cp1252",
            "HOME": "/home/someone",
        },
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("cp1252").split() == [
        *("tensorflow", "float32", "channels_last", "1e-07"),
        "float32",
        *("/home/someone/x", "für", r"\u80bf\u7624"),
    ]


LISTING = """
from absl import app
from trainer import startup

def main(_):
    for number in range(NUM):
        print("line", number)
    if NUM == 1:
        print(end="")

startup.run(main)
"""


@pytest.mark.parametrize("num_lines", [1, 100_000])
def test_reader_that_leaves_ends_a_command_quietly(num_lines):
    """As `head` does, before the last line or before what is left at the
    end."""
    code = LISTING.replace("NUM", str(num_lines))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_full_standard_output_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LISTING.replace("NUM", "1")],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "standard output cannot be written: No space left on device.\n"
    )


def test_each_script_of_the_project_is_a_command():
    text = (ROOT / "pyproject.toml").read_text()
    names = re.findall(
        r'^lightbox-(\w+) = "trainer.startup:run_script"', text, re.M
    )
    assert len(names) == 8
    for name in names:
        assert importlib.util.find_spec(startup._SCRIPTS[name]), name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--help"], "Requests:\n  --model_version"),
        (["--target=x", "--model_name=x", "a"], "serving.predict: The target"),
        (["--nonsense"], "Unknown command line flag 'nonsense'"),
    ],
)
def test_script_is_its_command(arguments, told):
    code = (
        "import sys; from trainer import startup; "
        "sys.argv[0] = '/bin/lightbox-predict'; startup.run_script()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert told in done.stdout + done.stderr
