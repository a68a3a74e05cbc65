"""Make the tables of ratios in ``README.md`` from the figures that benchmarks have kept.

    SLIDEWATCH_BENCH_JSON=tests/benchmarks/results/NAME.jsonl python -m pytest -m benchmark FILE
    python -m tests.benchmarks.results

Each file in ``results/`` has a JSON object per line, as the fixture `record` writes them: a figure
with its version, day, seed, machine, and ratio to a peer or a limit. Its table stands between two
comments in the document, and is replaced as a whole.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCUMENT, KEPT = HERE / "README.md", HERE / "results"
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Write the ratios as a Markdown table under a line that says how they were measured."""
    about = {(row["version"], row["day"], row["cpus"], row["seed"]) for row in rows}
    files = sorted({row["file"] for row in rows})
    told = "; ".join(
        f"{version}, {day[5:]}, {cpus} cores, seed {seed}"
        for version, day, cpus, seed in sorted(about)
    )
    lines = [
        f"{told}: `pytest -m benchmark -s` of {', '.join(f'`{each}`' for each in files)}.",
        "",
        "| | ours | peer or limit | ratio |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if not {"rival", "limit"} & row.keys():
            continue
        unit, ratio = row["unit"], row.get("limit_ratio")
        other = f"limit {shown_number(row['limit'])}" if "limit" in row else ""
        if "rival" in row:
            other, ratio = shown_number(row["rival"]["median"]), row["ratio"]["median"]
        shown = "–" if ratio is None else f"{ratio:.2f}"
        ours = f"{shown_number(row['ours']['median'])} {unit}".rstrip()
        lines.append(f"| {row['name']} | {ours} | {other} | {shown} |")
    return "\n".join(lines) + "\n"


def shown_number(value: float) -> str:
    """Write a number with three digits, or all of those before the point.

    >>> shown_number(1282.4), shown_number(0.03125)
    ('1,282', '0.0312')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def with_tables(document: str, kept: Path = KEPT) -> str:
    """Return a document with each of its tables made from the file of that name."""

    def made(block: re.Match[str]) -> str:
        lines = (kept / f"{block[2]}.jsonl").read_text().splitlines()
        return f"{block[1]}{table_of([json.loads(line) for line in lines])}{block[3]}"

    return BLOCK.sub(made, document)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
