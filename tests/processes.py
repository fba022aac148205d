"""Commands in processes of their own, none of which imports TensorFlow anew.

A server that has imported it forks for each command, which saves eight
seconds of a core every time.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time

import coverage

from tests import quick
from tests.samples import ROOT

# Whatever TMPDIR a command is given.
_TEMPORARY = tempfile.gettempdir()
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])
# Kinds of blocks in the backbone of what trains: what is served and explained
# needs them all.
_NUM_KINDS = {
    "trainer.task": 7,
    "tuning.task": quick.FEW_KINDS,
    "tests.train_only": quick.FEW_KINDS,
}


class Command:
    """`python -m module flags…`; the part of `subprocess.Popen` in use here.

    Args:
        num_devices: logical CPUs that stand for the GPUs of a machine.
        whole: take all layers of EfficientNetB0, not the shallow one.
    """

    def __init__(
        self, module, *flags, env=None, cwd=ROOT, num_devices=1, whole=False
    ):
        self._output = pathlib.Path(tempfile.mkdtemp(dir=_TEMPORARY))
        env = dict(os.environ) if env is None else env
        flags = [str(flag) for flag in flags]
        self._process = _FORKS.Process(
            target=_run,
            args=(self._output, module, flags, env, cwd, num_devices, whole),
            kwargs={"is_measured": coverage.Coverage.current() is not None},
        )
        self._process.start()
        atexit.register(self._process.kill)
        self.pid = self._process.pid
        self.kill = self._process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def poll(self):
        return self.returncode

    def wait(self, timeout=600):
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.read("stderr"), timeout)
        return self.returncode

    def communicate(self, timeout=600):
        self.wait(timeout)
        return self.read("stdout"), self.read("stderr")

    def read(self, name):
        """All that was written to `stdout` or `stderr`."""
        path = self._output / name
        return path.read_text() if path.exists() else ""

    def read_line(self, timeout=120):
        """The first line that it prints."""
        deadline = time.monotonic() + timeout
        while "\n" not in (text := self.read("stdout")):
            assert self.poll() is None, self.read("stderr")
            assert time.monotonic() < deadline, self.read("stderr")
            time.sleep(0.01)
        return text.splitlines()[0]


def run(module, *flags, timeout=600, **options) -> subprocess.CompletedProcess:
    """Waits for a command; see `Command`."""
    command = Command(module, *flags, **options)
    output = command.communicate(timeout)
    return subprocess.CompletedProcess(
        [module, *flags], command.returncode, *output
    )


def _run(output, module, flags, env, cwd, num_devices, whole, is_measured):
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
    # A fork ends without what the interpreter does at its end, and what the
    # server would do is not its business.
    atexit._clear()
    # A shell lets what it runs in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if module in _NUM_KINDS:
        quick.set_up(num_devices, None if whole else _NUM_KINDS[module])
    tempfile.tempdir = None
    sys.argv = [module, *flags]
    if is_measured:
        lines = coverage.Coverage(
            str(ROOT / ".venv/coverage/data"),
            data_suffix=True,
            config_file=str(ROOT / "pyproject.toml"),
        )
        lines.start()
        atexit.register(lambda: (lines.stop(), lines.save()))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
