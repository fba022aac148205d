"""Runs a script of figures in the environment of a peer, or in ours."""

import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
ENVIRONMENTS = FOLDER.parents[1] / ".venv/peers"
OURS = ""


def is_installed(name: str) -> bool:
    """Whether `make peers` made an environment; says so if it did not."""
    if name == OURS or (ENVIRONMENTS / name / ".installed").exists():
        return True
    print(f"Left out: {name}, which `make peers` installs.", flush=True)
    return False


def ask(name: str, script: str, *arguments: str, **environ: str) -> float:
    """The last number that a script of this folder prints.

    Raises:
        ValueError: with its last words, if it fails.
    """
    python = ENVIRONMENTS / name / "bin/python" if name else sys.executable
    done = subprocess.run(
        [python, FOLDER / script, *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"{script} of {name}: {done.stderr.splitlines()[-1]}")
    return float(done.stdout.split()[-1])
