"""Checks a command line with the command's own flags, without running it."""

import json
import subprocess
import sys

# In a process of its own: two commands may define flags of the same name.
_CHECK = """
import importlib, sys
from absl import flags
module = importlib.import_module(sys.argv[1])
try:
    rest = flags.FLAGS(sys.argv[1:], known_only=False)
    if rest[1:]:
        raise ValueError(f"Unexpected arguments: {rest[1:]}.")
    if hasattr(module, "make_config"):
        # Settings in a bucket are checked where the bucket can be read.
        if "://" in flags.FLAGS.hparams:
            flags.FLAGS.hparams = ""
        print(module.make_config().to_json())
except (flags.Error, ValueError) as error:
    sys.exit(str(error).splitlines()[0])
"""


def check(module: str, arguments: list[str]) -> dict:
    """Parses a command's arguments as the command would.

    Args:
        module: of this package that `python -m` runs, like `trainer.task`.
        arguments: its flags. Those of `trainer.task` are checked for their
            values too.

    Returns:
        The configuration of a `trainer.task`, empty for other commands.

    Raises:
        ValueError: with what the command would answer to its arguments.
    """
    process = subprocess.run(
        [sys.executable, "-c", _CHECK, module, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["it ended silently"]
        raise ValueError(f"{module}: {lines[-1]}")
    return json.loads(process.stdout or "{}")
