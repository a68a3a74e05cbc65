"""Compose patients of photographs of laboratories left out, and call them as a newcomer's are.

    python -m tests.benchmarks.patients --work /tmp/laboratories --size 0.5 --blur 1.2

The folder is that of `tests.benchmarks.laboratories`, which made a detector without each
laboratory: fitted with several, and not commissioned, as the one that comes along is.
Boxes give the true parasitaemia, and judge alone. A patient without boxes of parasites may have
some that nobody marked: IML's photographs are all of infected blood.
"""

import argparse
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter
from pyarrow.parquet import read_table

from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.night import screen
from tests.benchmarks.laboratories import LABORATORIES, PARASITES, boxes_of, store_without, unpacked

# Photographs of a patient: some 600 to 2,000 cells.
OF_A_PATIENT = {
    "bccd": 40, "raabin": 50, "barcelona": 66, "iml": 10, "bbbc041": 6, "uganda": 8,
    "uganda_sickle": 8,
}  # fmt: skip
Truth, Row = dict[str, float], dict[str, Any]
FEW = 0.01  # of the red cells: of patients with fewer parasites nothing is asked


def compose(work: Path, into: Path, name: str, size: float, blur: float) -> Truth:
    """Write the photographs of a laboratory's patients, with the share of parasites of each."""
    known = {} if name.startswith("uganda") else boxes_of(name)
    files, each = sorted(unpacked(work, name).iterdir()), OF_A_PATIENT[name]
    parasites = {
        path: sum(kind in PARASITES for kind, *_ in known.get(path.name, [])) for path in files
    }
    truth: Truth = {}
    for kind in ("healthy", "infected"):
        some = [path for path in files if bool(parasites[path]) is (kind == "infected")]
        random.Random(5).shuffle(some)
        some.sort(key=parasites.__getitem__)
        for number in range(len(some) // each):
            own = some[number * each : (number + 1) * each]
            folder = into / f"{kind} {number}"
            folder.mkdir(parents=True, exist_ok=True)
            for path in own:
                picture = Image.open(path).convert("RGB")
                smaller = picture.resize([round(size * side) for side in picture.size])
                blurred = smaller.filter(ImageFilter.GaussianBlur(blur)) if blur else smaller
                blurred.save(folder / path.name, quality=95)
            cells = sum(len(known.get(path.name, [])) for path in own)
            truth[folder.name] = sum(map(parasites.__getitem__, own)) / max(cells, 1)
    return truth


def called(work: Path, name: str, size: float, blur: float) -> tuple[Truth, list[Row]]:
    """Screen a laboratory's patients by the detector made without it; rows of their report."""
    store = store_without(work, name if LABORATORIES[name].trains else None)
    batch = f"patients-{name}-{size:g}-{blur:g}"
    truth = compose(work, work / batch, name, size, blur)
    options = Screen(images=str(work / batch), batch=batch, force=True)
    screen.fn(options, Settings(store=str(store), workers=2))
    found = read_table(next((store / "reports" / "patients").glob(f"*/{batch}.parquet")))
    return truth, found.to_pylist()


def by_kind(truth: Truth, rows: list[Row]) -> dict[str, list[Row]]:
    """Divide the rows of patients by whether they are infected, with ``held`` by their interval."""
    kinds = defaultdict[str, list[Row]](list)
    for row in rows:
        share = truth[row["slide_id"]]
        kind = "infected" if share >= FEW else "few parasites" if share else "healthy"
        held = row["call"] == "positive" and (
            row["corrected_low"] <= 100 * share <= row["corrected_high"]
        )
        kinds[kind].append(row | {"held": held})
    return kinds


def main() -> None:
    """Print how the patients of each laboratory are called."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the laboratories")
    parser.add_argument("--size", type=float, default=1.0, help="of the photographs")
    parser.add_argument("--blur", type=float, default=0.0, help="deviation in pixels")
    given = parser.parse_args()
    print("| | patients | calls | 95% interval holds |\n|---|---|---|---|")
    for name in OF_A_PATIENT:
        found = by_kind(*called(given.work.resolve(), name, given.size, given.blur))
        for kind, some in found.items():
            calls = Counter(str(row["call"]) for row in some)
            texts = ", ".join(f"{n} {call}" for call, n in sorted(calls.items()))
            held = f"{sum(row['held'] for row in some)} of {calls['positive']}"
            print(f"| {name}, {kind} | {len(some)} | {texts} | {held} |", flush=True)


if __name__ == "__main__":
    main()
