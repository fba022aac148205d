"""Checks a command line with the command's own flags, without running it."""

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
    if hasattr(module, "make_config") and "://" not in flags.FLAGS.hparams:
        module.make_config()
except (flags.Error, ValueError) as error:
    sys.exit(str(error).splitlines()[0])
"""


def find_problem(module: str, arguments: list[str]) -> str:
    """What the command would answer to its arguments; "" if it would start.

    Args:
        module: of this package that `python -m` runs, like `trainer.task`.
        arguments: its flags. Those of `trainer.task` are checked for their
            values too.
    """
    process = subprocess.run(
        [sys.executable, "-c", _CHECK, module, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 0:
        return ""
    lines = process.stderr.strip().splitlines() or ["it ended without a word"]
    return f"{module}: {lines[-1]}"
