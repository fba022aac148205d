"""Runs a script of figures in the environment of a peer, or in ours."""

import atexit
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

FOLDER = pathlib.Path(__file__).parent
ENVIRONMENTS = FOLDER.parents[1] / ".venv/peers"
OURS = ""


def is_installed(name: str) -> bool:
    """Whether `make peers` made an environment; says so if it did not."""
    if name == OURS or (ENVIRONMENTS / name / ".installed").exists():
        return True
    print(f"Left out: {name}, which `make peers` installs.", flush=True)
    return False


def start(
    name: str, script: str, *arguments: str, **environ: str
) -> Callable[[], float]:
    """Starts a script of this folder that takes turns; see `turns.py`.

    Returns:
        Function that has it take one, and returns the figure. It raises
        ValueError with the script's last words if that fails.
    """
    python = ENVIRONMENTS / name / "bin/python" if name else sys.executable
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        [python, FOLDER / script, *arguments],
        env=os.environ | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    atexit.register(process.kill)

    def take_turn() -> float:
        print(file=process.stdin, flush=True)
        if figure := process.stdout.readline():
            return float(figure)
        errors.seek(0)
        last_words = errors.read().strip().splitlines()[-1:]
        raise ValueError(f"{script} of {name}: {' '.join(last_words)}")

    return take_turn
