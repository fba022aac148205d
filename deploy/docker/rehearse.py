"""Runs the install steps of a Dockerfile without Docker.

    python -m deploy.docker.rehearse deploy/docker/train.Dockerfile
    python -m deploy.docker.rehearse deploy/docker/train.Dockerfile DEVICE=gpu

COPY fills a directory from the files that `.dockerignore` lets through, RUN
works in a fresh virtual environment, and in the end the image's own command is
called, and trains for a moment, with the image's variables and the copied files
alone. What it cannot show: the base image, the user, and devices.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv

from absl import app, flags

ROOT = pathlib.Path(__file__).parent.parent.parent


def parse(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order: name and arguments."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*#", line)]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (name.upper(), rest.strip())
        for name, _, rest in (
            line.partition(" ") for line in joined.splitlines() if line.strip()
        )
    ]


def expand(text: str, variables: dict[str, str]) -> str:
    """Puts values in for `${NAME}`."""
    return re.sub(
        r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), text
    )


def _ignored(root: pathlib.Path) -> tuple[set[str], list[str]]:
    """Top-level names that `.dockerignore` lets through, and inner patterns."""
    kept, patterns = set(), []
    for line in (root / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            kept.add(line[1:])
        elif line.startswith("**/"):
            patterns.append(line[3:])
    return kept, patterns


def copy(sources: list[str], target: pathlib.Path, root: pathlib.Path) -> None:
    """Does what COPY does with files and folders of the build context."""
    kept, patterns = _ignored(root)
    for source in sources:
        if pathlib.PurePath(source).parts[0] not in kept:
            raise ValueError(f".dockerignore must let {source} through.")
        if (root / source).is_dir():
            shutil.copytree(
                root / source,
                target,
                ignore=shutil.ignore_patterns(*patterns),
                dirs_exist_ok=True,
            )
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / source, target)


def _base_python(image: str) -> None:
    version = re.search(r"python:(\d+\.\d+)\.", image)
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version and version[1] != mine:
        raise ValueError(
            f"the image has Python {version[1]}, this is {mine}: call this "
            "command with the former, or its packages do not fit."
        )


def rehearse(
    dockerfile: pathlib.Path, arguments: dict[str, str], place: pathlib.Path
) -> None:
    """Goes through a Dockerfile of one stage and uses what comes of it.

    Args:
        dockerfile: seen from the project's root.
        arguments: build arguments.
        place: an empty directory for the files and the environment.

    Raises:
        ValueError: if the Dockerfile asks for what cannot be had here.
        subprocess.CalledProcessError: if a step fails.
    """
    steps = parse((ROOT / dockerfile).read_text())
    if not any(name == "RUN" for name, _ in steps):
        raise ValueError(f"{dockerfile} has no steps to rehearse.")
    environment = _build(steps, arguments, place) | {
        "HOME": str(place),
        # No devices: libtpu would ask the machine for its TPU for minutes.
        "CUDA_VISIBLE_DEVICES": "-1",
        "TPU_LOAD_LIBRARY": "0",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": "",
    }
    last = dict(steps)
    entry, command = json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"])
    directory = place / "app"
    _call(entry + command, directory, environment, (0, 1))  # absl's --help: 1
    _train(entry, directory, environment, place)
    size = sum(path.lstat().st_size for path in (place / "venv").rglob("*"))
    print(f"{dockerfile}: ok; packages: {size / 1e9:.2f} GB")


def _build(
    steps: list[tuple[str, str]],
    arguments: dict[str, str],
    place: pathlib.Path,
) -> dict[str, str]:
    """Fills `place` with what the image would hold; returns its variables."""
    venv.create(place / "venv", with_pip=True)
    directory = place / "app"
    variables: dict[str, str] = {}
    environment = {
        "PATH": f"{place / 'venv/bin'}:{os.environ['PATH']}",
        # Which mirror of the packages to use is this machine's affair.
        **{k: v for k, v in os.environ.items() if k.startswith("PIP_")},
        "PIP_PROGRESS_BAR": "off",
        "PIP_QUIET": "1",
    }
    for name, rest in steps:
        start = time.monotonic()
        if name == "ARG":
            key, _, default = rest.partition("=")
            variables[key] = arguments.get(key, default)
        elif name == "FROM":
            _base_python(expand(rest, variables))
        elif name == "ENV":
            # Where the image's Python is, is here the virtual environment.
            environment |= dict(
                p.replace("=/usr/local/", f"={place}/venv/").split("=", 1)
                for p in rest.split()
            )
        elif name == "COPY":
            *sources, target = expand(rest, variables).split()
            copy(sources, directory / target.lstrip("/"), ROOT)
        elif name == "RUN":
            print(f"RUN {expand(rest, variables)}")
            subprocess.run(
                ["bash", "-ec", rest],
                cwd=directory,
                env=environment | variables,
                check=True,
            )
            print(f"took {time.monotonic() - start:.0f} s")
        elif name not in ("CMD", "ENTRYPOINT", "USER", "WORKDIR"):
            raise ValueError(f"{name} cannot be rehearsed.")
    return environment


def _call(
    command: list[str],
    directory: pathlib.Path,
    environment: dict[str, str],
    codes: tuple[int, ...] = (0,),
) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode not in codes:
        raise ValueError(
            f"{' '.join(command)}: code {done.returncode}: "
            f"{done.stderr[-2000:]}"
        )
    print(f"{' '.join(command[:3])}: ok")


def _train(
    entry: list[str],
    directory: pathlib.Path,
    environment: dict[str, str],
    place: pathlib.Path,
) -> None:
    """Trains for a moment: the pinned packages fit the code and each other."""
    for arguments in (
        f"trainer.data.sample_data --output_dir={place}/scans --num_images=60"
        " --image_size=64",
        f"trainer.data.build_records --input_dir={place}/scans"
        f" --output_dir={place}/records",
        f"trainer.task --data_dir={place}/records --job_dir={place}/run"
        " --weights=none --image_size=32 --fine_tune_epochs=1"
        " --strategy=one_device",
    ):
        _call(entry + arguments.split(), directory, environment)


def main(argv: list[str]) -> None:
    if len(argv) < 2 or not all("=" in argument for argument in argv[2:]):
        raise app.UsageError("Give a Dockerfile, and NAME=VALUE or none.")
    arguments = dict(a.split("=", 1) for a in argv[2:])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        place = pathlib.Path(flags.FLAGS.keep or directory)
        try:
            rehearse(pathlib.Path(argv[1]), arguments, place)
        except (ValueError, OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"deploy.docker.rehearse: {error}")


if __name__ == "__main__":
    flags.DEFINE_string(
        "keep", None, "An empty directory to work in and to leave as it is."
    )
    app.run(main)
