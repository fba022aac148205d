"""Adds the flags of every command to the page of commands, as MkDocs builds it.

Each command is asked in a process of its own: several have flags of one name.
"""

import os
import pathlib
import re
import runpy
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = (
    "trainer.data.sample_data",
    "trainer.data.build_records",
    "trainer.data.inspect_records",
    "trainer.task",
    "trainer.export.blessing",
    "tuning.task",
    "serving.local_server",
    "serving.predict",
    "serving.evaluate",
    "serving.drift",
    "serving.load_test",
    "deploy.publish",
    "deploy.vertex.submit",
    "deploy.vertex.serve",
    "deploy.tpu.run",
)


def on_page_markdown(markdown, page, **_):
    """The hook of MkDocs."""
    if page.file.src_uri != "commands.md":
        return markdown
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, command],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in COMMANDS
    ]
    sections = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("The flags of a command cannot be told.")
    return "\n".join([markdown, *sections])


def _describe(command: str) -> None:
    """Prints a section on a command."""
    from trainer import startup

    def print_section(_, headings=None):
        text = sys.modules["__main__"].__doc__.strip()
        print(f"## {command}\n\n```text\n{text}\n```\n")
        last = ""
        for heading, name, text in startup.describe_flags(headings or {}):
            if heading != last:
                print(f"\n**{heading}**\n\n| flag | what |\n|---|---|")
                last = heading
            cell = re.sub(r"([|<\[\]*_])", r"\\\1", text)
            print(f"| `{name}` | {cell} |")
        print()

    startup.run = print_section
    sys.argv = [command]
    runpy.run_module(command, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _describe(sys.argv[1])
