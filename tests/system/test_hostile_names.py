"""Names and labels that are given by strangers, in everything that slidewatch writes."""

import csv
import io
import json
import logging
import re

import pytest

from flows.monitoring.console import complain, tell
from flows.monitoring.logs import JsonHandler
from flows.outcome import printable
from flows.smears.artifacts import markdown_text
from storage.store import StoreError, check_name
from tasks.reports.spreadsheet import csv_lines, read_csv

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE images; --",
    "a\nslidewatch: all is well",
    "\x1b]0;mine\x07\x1b[31mred",
    "=HYPERLINK(1)",
    "a;=HYPERLINK(1)",
    "../../etc/passwd",
    "{{ 7 * 7 }}",
    "a|b",
    "[l](javascript:alert(1))",
    "\u202egnp.exe",
    "%s %d {0}",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_and_nothing_else(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # No folder or file of a store is called so.
    with pytest.raises(StoreError, match="is no batch name"):
        check_name("batch", name)
    # Messages are one line that steers nothing.
    for say in (tell, complain):
        say(f"label {name!s} is none")
        assert printable(said := capsys.readouterr().err.removesuffix("\n")) == said
    # A line of the log is one object that has it as it is.
    record = logging.LogRecord("slidewatch", logging.INFO, "", 0, "%s", (name,), None)
    line = JsonHandler().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == name
    # Prefect's artifacts have no markup of it.
    shown = re.sub(r"\\.", "", markdown_text(name))
    assert not set("<>|[]\n") & set(shown)
    # A sheet has it as one cell that is no formula, and reads it back.
    sheet = "".join(csv_lines(["name", "n"], [[name, 1]]))
    cells = list(csv.reader(io.StringIO(sheet, newline="")))[1]
    assert not cells[0].startswith(("=", "+", "-", "@"))
    ((_, row),) = read_csv(sheet.encode())[1]
    assert row["name"].split() == name.split()
