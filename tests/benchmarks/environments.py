"""Runs a script of figures in the environment of a peer, or in ours."""

import atexit
import os
import pathlib
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parent
ENVIRONMENTS = FOLDER.parents[1] / ".venv/peers"
OURS = ""


def is_installed(name: str) -> bool:
    """Whether `make peers` made an environment; says so if it did not."""
    if name == OURS or (ENVIRONMENTS / name / ".installed").exists():
        return True
    print(f"Left out: {name}, which `make peers` installs.", flush=True)
    return False


class Script:
    """A script of this folder that takes turns; see `turns.py`.

    A ValueError has its last words if it fails.
    """

    def __init__(self, name: str, script: str, *arguments: str, **environ: str):
        """Starts it in an environment, and waits until it is ready."""
        self._name = f"{script} of {name}"
        python = ENVIRONMENTS / name / "bin/python" if name else sys.executable
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, FOLDER / script, *arguments],
            env=os.environ | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        atexit.register(self.end)
        self._read_line()

    def take_turn(self) -> float:
        """The figure of one turn."""
        print(file=self._process.stdin, flush=True)
        return float(self._read_line())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read_line(self) -> str:
        if line := self._process.stdout.readline():
            return line
        self._errors.seek(0)
        last_words = self._errors.read().strip().splitlines()[-1:]
        raise ValueError(f"{self._name}: {' '.join(last_words)}")
