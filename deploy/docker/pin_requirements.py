"""Pins what the images install: one version and one file of each package.

The versions are those of the environment that this runs in, where the tests
have passed; pip adds what only the GPU or the TPU image needs.

    make pins        # or: python -m deploy.docker.pin_requirements

Runs on what the images are: Linux on x86-64 and the Python of their base.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent

# tensorflow-tpu is TensorFlow under another name, and the newest one that PyPI
# has. Cloud TPU's documentation goes as far as 2.18, which Lightbox does not.
TPU_VERSION = "2.20.0"

# Its PJRT interface has the very version (0.72) that TensorFlow 2.20 reports;
# pip would take the newest, which is a year younger.
LIBTPU = "libtpu==0.0.18"

# Names the packages to resolve, and those to leave out of the result.
_IMAGES = {
    "cpu": ([".[medical]"], ()),
    "gpu": ([".[medical,gpu]"], ()),
    "tpu": (
        [
            ".[medical]",
            f"tensorflow=={TPU_VERSION}",
            f"tensorflow-tpu=={TPU_VERSION}",
            LIBTPU,
        ],
        # Both would install the module `tensorflow`.
        ("tensorflow",),
    ),
    "build": (["setuptools", "wheel"], ()),
}


def pin(requirements: list[str], constraints: str) -> dict[str, str]:
    """What pip would install: lines for `--require-hashes` by package.

    Args:
        requirements: of pip's command line, seen from the project's root.
        constraints: text of a constraints file.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "constraints.txt")
        path.write_text(constraints)
        report = pathlib.Path(directory, "report.json")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--ignore-installed",
                f"--constraint={path}",
                f"--report={report}",
                *requirements,
            ],
            cwd=ROOT,
            check=True,
        )
        packages = json.loads(report.read_text())["install"]
    lines = {}
    for package in packages:
        info = package["download_info"].get("archive_info")
        if info is None:
            continue  # this project itself
        name = package["metadata"]["name"].lower().replace("_", "-")
        lines[name] = (
            f"{name}=={package['metadata']['version']} \\\n"
            f"    --hash=sha256:{info['hashes']['sha256']}\n"
        )
    return lines


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    tested = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    older = "".join(
        line
        for line in tested.splitlines(keepends=True)
        if not line.startswith("tensor")
    )
    for image, (requirements, left_out) in _IMAGES.items():
        lines = pin(requirements, older if image == "tpu" else tested)
        path = FOLDER / f"requirements-{image}.txt"
        path.write_text(
            "# Written by `make pins` from setup.py and the tested "
            "environment.\n"
            + "".join(
                lines[name] for name in sorted(lines) if name not in left_out
            )
        )
        print(f"{path.relative_to(ROOT)}: {len(lines) - len(left_out)}")


if __name__ == "__main__":
    app.run(main)
