"""The commands that README.md and the pages tell their readers to type."""

import re
import shlex

from tests.samples import ROOT

PAGES = [
    *(ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy/README.md",
]
# Short for a module, in the middle of a sentence.
_SHORT = {
    "build_records": "trainer.data.build_records",
    "inspect_records": "trainer.data.inspect_records",
}


def texts() -> dict[str, str]:
    """The pages by name, with broken lines of commands joined."""
    return {
        path.relative_to(ROOT).as_posix(): re.sub(
            r" *\\\n +", " ", path.read_text()
        )
        for path in PAGES
    }


def code() -> list[str]:
    """Lines of code blocks, and what stands between backticks."""
    found = []
    for text in texts().values():
        found += re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
            found += block.splitlines()
        # A table's row is one line; in prose a line may end within code.
        text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        found += [" ".join(c.split()) for c in re.findall(r"`([^`]+)`", text)]
    return list(dict.fromkeys(found))


def commands() -> list[tuple[str, list[str]]]:
    """Module and arguments of each `python -m` that has any."""
    found = []
    for line in code():
        match = re.match(r"python -m ([\w.]+) (-.*)", line)
        if match and match[1] != "MODULE":
            found.append((match[1], shlex.split(match[2], comments=True)))
    return found


def mentions() -> list[tuple[str, list[str]]]:
    """Module and flags where a sentence names a command with some flags."""
    found = []
    for line in code():
        module, _, rest = line.partition(" ")
        module = _SHORT.get(module, module)
        if re.match(r"(trainer|tuning|serving|deploy)\.", module):
            found.append((module, re.findall(r"(?:^| )(--\w+)", rest)))
    return found
