"""Try to have infected patients called negative, in thousands of trials.

    python -m tests.benchmarks.trials --work /tmp/laboratories

The folder is that of `tests.benchmarks.laboratories`. The patients of `tests.benchmarks.patients`
are screened at five sizes, sharp and blurred: by a detector that knows nobody there, and by one
that commissioned the laboratory with its slides without marked parasites, photographed alike. Then
patients are composed anew of the scored photographs: of one, two or five, of all photographed
twice, and of half of them with half of somebody without parasites. Each is called as a patient of
a report is.
"""

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import write_table

from flows.jobs.verified import load_detector
from flows.options.flows import Commission, Screen
from flows.settings import Settings
from flows.smears.call import published
from flows.smears.commission import commission
from flows.smears.commissioning.laboratory import LaboratoryError
from flows.smears.jobs.grouped_rows import Rules, group_rows
from flows.smears.night import screen
from flows.smears.stages.chosen_thresholds import counting_at
from storage.batches import ledger
from storage.parquet import read_table as read_stored
from storage.reports.tables import IMAGES, PATIENTS, report_path
from storage.smears import segmentations
from storage.store import Store
from tasks.reports.image_columns import Provenance
from tests.benchmarks.laboratories import store_without
from tests.benchmarks.patients import compose

INFECTED = "iml", "bbbc041"  # laboratories with parasites
SIZES, BLURS = (1.0, 3 / 4, 1 / 2, 3 / 8, 1 / 4), (0.0, 1.2)
FEW = 1, 2, 5  # photographs of a patient
NEGATIVES = 5  # slides that the laboratory is commissioned with
MOST = 9  # infected patients of a laboratory, from few parasites to many
AT_ONCE = 40  # trials that are grouped together
Trial = tuple[str, list[tuple[str, str]]]  # name, and the slide and photograph of each of its parts


def negatives(into: Path) -> None:
    """Copy the photographs of a night without marked parasites into `NEGATIVES` slides."""
    files = sorted((into / "night").glob("healthy */*"))
    for place, path in enumerate(files):
        folder = into / "known" / f"healthy {place % NEGATIVES}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)


def commission_known(into: Path, settings: Settings) -> None:
    """Commission a laboratory with its slides, or with those that are not refused by name."""
    known = Commission(images=str(into / "known"), batch="known", laboratory="lab", negative="all")
    try:
        commission.fn(known, settings)
    except LaboratoryError as error:
        names = {folder.name for folder in (into / "known").iterdir()}
        left = sorted(name for name in names if f"{name} " not in str(error))
        commission.fn(known.model_copy(update={"negative": left}), settings)


def trials(fields: pa.Table, rng: np.random.Generator) -> Iterator[Trial]:
    """Compose patients of the photographs of infected ones, whose names say so."""
    by_slide: dict[str, list[tuple[str, str]]] = {}
    for row in fields.select(["slide_id", "source_uri"]).to_pylist():
        by_slide.setdefault(row["slide_id"], []).append((row["slide_id"], row["source_uri"]))
    healthy = [slide for slide in by_slide if slide.startswith("healthy")]
    for slide, photographs in by_slide.items():
        if slide in healthy:
            continue
        for n in FEW:
            some = rng.choice(len(photographs), min(n, len(photographs)), replace=False)
            yield f"{slide}: {n}", [photographs[place] for place in some]
        yield f"{slide}: twice", photographs * 2
        if healthy:
            other = by_slide[healthy[int(rng.integers(len(healthy)))]]
            yield f"{slide}: mixed", photographs[::2] + other[::2]


def rows_of(table: pa.Table, photograph: str, some: list[Trial]) -> pa.Table:
    """Take the rows of each trial's photographs, which the column ``photograph`` names."""
    uris = table[photograph].to_pylist()
    rows: dict[str, list[int]] = {}
    for row, uri in enumerate(uris):
        rows.setdefault(uri, []).append(row)
    taken, slides, patients, files = [], [], [], []
    for name, parts in some:
        for part, (slide, uri) in enumerate(parts):
            taken += rows.get(uri, [])
            n = len(rows.get(uri, []))
            slides += [f"{name} of {slide}"] * n
            patients += [name] * n
            files += [f"{name}/{part}/{uri}"] * n
    made = table.take(pa.array(taken, pa.int64()))
    for column, values in (("slide_id", slides), ("patient_id", patients), (photograph, files)):
        place = made.schema.get_field_index(column)
        made = made.set_column(place, column, pa.array(values, pa.string()))
    return made


def calls(store: Path, batch: str, rng: np.random.Generator) -> Counter[str]:
    """Call the patients of a screened batch, and those composed of them, by call."""
    kept, settings = Store(str(store)), Settings(store=str(store))
    screened, seal = published(kept, batch)
    path = {
        kind: report_path(batch, screened.batch.batch_date, kind) for kind in (IMAGES, PATIENTS)
    }
    rows = read_stored(kept, *path[PATIENTS]).to_pylist()
    found = Counter(str(row["call"]) for row in rows if row["slide_id"].startswith("infected"))
    segmentation = segmentations.segmentation_of(kept, screened.batch.images)
    assert segmentation is not None
    fields = segmentations.read_fields(kept, segmentation)
    images = read_stored(kept, *path[IMAGES])
    shifts = read_stored(kept, *ledger.slides_path(screened.batch, screened.key))
    stated = Provenance(
        screened.model.name, screened.detector.name, batch, screened.batch.batch_date,
        seal.scored_at, screened.model.arithmetic,
    )  # fmt: skip
    rules = Rules(
        settings.field_limits, counting_at(screened, settings),
        load_detector(kept, screened.detector).scales, stated,
    )  # fmt: skip
    tried = list(trials(fields, rng))
    for start in range(0, len(tried), AT_ONCE):
        some = tried[start : start + AT_ONCE]
        theirs = {f"{name} of {slide}": slide for name, parts in some for slide, _ in parts}
        places = pc.index_in(pa.array(theirs.values()), shifts["slide_id"].combine_chunks())
        known = shifts.take(places).set_column(0, "slide_id", pa.array(list(theirs)))
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            write_table(rows_of(images, "source_uri", some), file.name)
            grouped = group_rows(Path(file.name), known, rows_of(fields, "source_uri", some), rules)
        found += Counter(map(str, grouped.tables[PATIENTS]["call"].to_pylist()))
    return found


def tried(
    work: Path, name: str, size: float, blur: float, rng: np.random.Generator
) -> Iterator[tuple[str, Counter[str]]]:
    """Screen a laboratory's patients with both detectors; who knows it, and the calls."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        into = Path(place)
        for kept in ("models", "detectors", "statistics"):
            shutil.copytree(store_without(work, None) / kept, into / "store" / kept)
        settings = Settings(store=str(into / "store"), workers=2)
        compose(work, into / "night", name, size, blur)
        infected = sorted((into / "night").glob("infected *"), key=lambda each: int(each.name[9:]))
        for folder in {*infected} - {*infected[:: -(-len(infected) // MOST)]}:
            shutil.rmtree(folder)
        negatives(into)
        screen.fn(Screen(images=str(into / "night"), batch="new"), settings)
        yield "new", calls(into / "store", "new", rng)
        commission_known(into, settings)
        screen.fn(Screen(images=str(into / "night"), batch="there", detector="lab"), settings)
        yield "commissioned", calls(into / "store", "there", rng)


def all_tried(work: Path) -> Counter[str]:
    """Try all laboratories, sizes and blurs, and print a row for each; the calls together."""
    total, rng = Counter[str](), np.random.default_rng(0)
    print("| laboratory | size | blur | it is | infected patients |\n|---|---|---|---|---|")
    for name, size, blur in product(INFECTED, SIZES, BLURS):
        for known, found in tried(work, name, size, blur, rng):
            texts = ", ".join(f"{n} {call}" for call, n in sorted(found.items()))
            print(f"| {name} | {size:g} | {blur:g} | {known} | {texts} |", flush=True)
            total += found
    return total


def main() -> None:
    """Print how often an infected patient was called negative."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the laboratories")
    total = all_tried(parser.parse_args().work.resolve())
    print(f"{total.total():,} trials, {total['negative']} of them negative: {dict(total)}")


if __name__ == "__main__":
    main()
