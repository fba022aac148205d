"""`run.json`: what another person needs to repeat a run.

A run that was stopped and continued has a record of each start, oldest first.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess

from trainer.storage import paths

RUN_FILE = "run.json"
_SECRET_FLAG = re.compile(
    r"(--?[\w.-]*(?:token|secret|passw|credential|api_?key|private_?key)"
    r"[\w.-]*)=.*",
    re.IGNORECASE | re.DOTALL,
)
# The user part of a URL and what signs one.
_SECRET_URL = (
    (re.compile(r"(\w+://)[^/@\s]+@"), r"\1***@"),
    (
        re.compile(
            r"([?&][\w-]*(?:signature|token|credential|key)=)[^&\s]+", re.I
        ),
        r"\1***",
    ),
)


def describe_start(
    argv: list[str], hardware: dict, dataset_fingerprint: str
) -> dict:
    """Describes this process.

    Args:
        argv: the command line; what looks like a secret is left out.
        hardware: from `distribution.describe`.
        dataset_fingerprint: of `dataset.json`.
    """
    return {
        "start_time": datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"
        ),
        "command": shlex.join(_without_secrets(argv)),
        "versions": {
            "python": platform.python_version(),
            **{
                name: _version(name)
                for name in ("lightbox", "tensorflow", "keras", "numpy")
            },
        },
        "git_commit": git_commit(os.path.dirname(__file__)),
        "platform": platform.platform(),
        "dataset_fingerprint": dataset_fingerprint,
        **hardware,
    }


def read_starts(job_dir: str) -> tuple[dict, ...]:
    """The starts of a run, oldest first; none if there is no `run.json`.

    Raises:
        ValueError: if there is a file of that name that is none of ours.
    """
    path = paths.join(job_dir, RUN_FILE)
    if not paths.exists(path):
        return ()
    try:
        return tuple(json.loads(paths.read_bytes(path))["starts"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a record that this program wrote ({error}): "
            "move it away to continue."
        ) from error


def append(job_dir: str, start: dict) -> None:
    """Adds a start to `run.json`; whole or not at all.

    Raises:
        ValueError: if there is a file of that name that is none of ours: it
            is not overwritten.
    """
    starts = [*read_starts(job_dir), start]
    text = json.dumps({"starts": starts}, indent=2) + "\n"
    paths.write_atomically(paths.join(job_dir, RUN_FILE), text)


def git_commit(directory: str) -> str | None:
    """Commit that the code runs from, with `-dirty` if it was changed since.

    Returns:
        None where the directory is not under version control, or git is not
        installed.
    """

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", directory, *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()

    try:
        # An installed package may lie in a repository that is not its own.
        git("ls-files", "--error-unmatch", os.path.basename(__file__))
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _without_secrets(argv: list[str]) -> list[str]:
    cleaned, hide_next = [], False
    for argument in argv:
        if hide_next and not argument.startswith("-"):
            argument = "***"
        # `--token VALUE` is as good as `--token=VALUE`.
        hide_next = bool(_SECRET_FLAG.fullmatch(f"{argument}="))
        argument = _SECRET_FLAG.sub(r"\1=***", argument)
        for pattern, replacement in _SECRET_URL:
            argument = pattern.sub(replacement, argument)
        cleaned.append(argument)
    return cleaned
