"""No cell of a table is a formula, and all of them come back."""

import csv
import io

import pytest

from trainer.storage import csv_text


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+cmd", "-2+3", "@SUM(A1)", "\tx", "\rx", "-", "=", "--1"),
        *("'=1", "''@x", "'-1", "-0x10", "-1 "),
    ],
)
def test_what_a_spreadsheet_would_run_is_text(text):
    table = csv_text.write([["id", text], [text, "a"], ["b", f"{text},\n"]])
    for row in csv.reader(io.StringIO(table, newline="")):
        assert all(cell[:1] not in (*"=+-@\t\r",) for cell in row)
    assert csv_text.read(table) == [
        {"id": text, text: "a"},
        {"id": "b", text: f"{text},\n"},
    ]


def test_numbers_and_plain_text_stay_as_they_are():
    cells = [
        "-1",
        "+2.5",
        "-1e-05",
        "-.5",
        "-inf",
        "'quoted'",
        "a=b",
        "",
        "x-y",
    ]
    numbers = [-1, -2.5, None, True]
    table = csv_text.write([list("abcdefghijklm"), cells + numbers])
    expected = [*cells, "-1", "-2.5", "", "True"]
    assert table.splitlines()[1] == ",".join(expected)
    assert list(csv_text.read(table)[0].values()) == expected
