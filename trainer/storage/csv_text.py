"""CSV as all files of ours are written: no cell of it is a formula.

A spreadsheet runs what begins with one of four signs, a tab or a line's end,
and ids, labels and messages come from the names and files of others. In front
of such text stands an apostrophe, which readers here take away again.
"""

import csv
import io
import re
import types
from collections.abc import Iterable, Sequence
from typing import Any

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan)")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"''*[=+\-@\t\r]")


def write(rows: Iterable[Sequence]) -> str:
    """The text of a file, whose first row is the header; None is empty."""
    lines: list[str] = []
    # With this line's end both of its letters are quoted in cells.
    writer = csv.writer(
        types.SimpleNamespace(write=lines.append), lineterminator="\r\n"
    )
    writer.writerows([_escape(cell) for cell in row] for row in rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def read(text: str) -> list[dict[str, str]]:
    """The rows of such a text, as of `csv.DictReader`."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    reader.fieldnames = [_unescape(name) for name in reader.fieldnames or ()]
    return [{name: _unescape(cell) for name, cell in r.items()} for r in reader]


def _escape(cell: Any) -> Any:
    if not isinstance(cell, str) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _unescape(cell: Any) -> Any:
    # Of a row of another length than the header, it may be None or a list.
    if isinstance(cell, str) and _ESCAPED.match(cell):
        return cell[1:]
    return cell
