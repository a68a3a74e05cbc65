"""Measure the worth of commissioning a laboratory: fields of fields.zip, with and without a
laboratory.

    python -m tests.benchmarks.laboratory_trial STORE BATCH

BATCH is a screened segmentation of fields.zip with the defaults. Some fields, drawn by chance, are
commissioned, and all others are screened there. The table goes to standard output, as Markdown.
Nothing was chosen by it.
"""

import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.jobs.scoring.feature_rows import judged_classes
from flows.jobs.verified import load_fitted_detector
from storage.batches.features import read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.detector.detector import Detector, score
from tasks.detector.slides.cell_score import SlideNormal, cell_scores, standardised_distances
from tasks.detector.slides.groups import GroupKey
from tasks.detector.slides.normal import Choices, slide_normal
from tasks.detector.slides.own_normal import OwnNormal
from tasks.laboratories.learning import (
    LEAST_CELLS,
    LaboratoryNormal,
    NightNormal,
    SlideCells,
    kept_statistics,
    laboratory_normal,
    merged,
    slide_evidence,
)
from tasks.reports.image_columns import is_white_cell
from tests.support.boxes import overlap
from tests.support.paths import DATA

DRAWS = 5
SIZES = (1, 3, 10, 30)
Judge = Callable[[SlideCells], NDArray[np.float64]]


@dataclass(frozen=True)
class Field:
    """A field's cells, and what the boxes of the data set say of each: red, white or none."""

    cells: SlideCells
    truth: NDArray[np.str_]
    population: NDArray[np.float64]


def load(store: Store, name: str) -> tuple[Detector, list[Field]]:
    """Read a batch, field by field."""
    detector_card = load_detector_card(store)
    detector, batch = load_fitted_detector(store, detector_card), load_batch(store, name)
    manifest = read_manifest(store, batch)
    block = read_block(store, detector_card.model, batch.key, 0, batch.rows)
    classes, white = judged_classes(block, manifest), is_white_cell(manifest)
    truth, names = boxed(manifest), np.asarray(manifest["slide_id"].to_pylist())
    p = score(detector, block.taps).population_p_value
    fields = []
    for field in np.unique(names).tolist():
        rows = np.flatnonzero(names == field)
        cells = SlideCells(
            GroupKey(batch.key, "", field),
            rows,
            {tap: block.taps[tap][rows].astype(np.float64) for tap in detector.taps},
            classes[rows],
            ~white[rows],
        )
        fields.append(Field(cells, truth[rows], p[rows]))
    return detector, fields


def boxed(manifest: pa.Table) -> NDArray[np.str_]:
    """Find the kind of the box (n,) that each cell shares half its area with."""
    corners = ("x", "y", "width", "height")
    boxes = np.stack([np.asarray(manifest[c].to_pylist(), float) for c in corners], axis=1)
    boxes[:, 2:] += boxes[:, :2]
    fields = np.asarray(manifest["slide_id"].to_pylist())
    truth = np.full(len(fields), "none", dtype="U5")
    with zipfile.ZipFile(DATA / "fields.zip") as archive:
        for field in np.unique(fields).tolist():
            tree = ElementTree.fromstring(archive.read(f"{field}.xml"))
            mine = np.flatnonzero(fields == field)
            for kind, name in (("RBC", "red"), ("WBC", "white")):
                marked = [
                    [float(thing.findtext(f"bndbox/{c}", ""))
                     for c in ("xmin", "ymin", "xmax", "ymax")]
                    for thing in tree.iter("object") if thing.findtext("name") == kind
                ]  # fmt: skip
                shared = overlap(boxes[mine], np.asarray(marked).reshape(-1, 4))
                truth[mine[shared.max(axis=1, initial=0.0) >= 0.5]] = name
    return truth


def night_of(own: OwnNormal, fields: Sequence[Field], least: int = Choices.least) -> NightNormal:
    """Make the normal of a night of some fields, as `screen` does for small slides."""
    rows = np.concatenate([f.cells.rows for f in fields])
    taps = {tap: np.concatenate([f.cells.taps[tap] for f in fields]) for tap in own.priors}
    predicted = np.concatenate([f.cells.predicted for f in fields])
    normal = slide_normal(own.priors, taps, predicted, Choices(least=least))
    return NightNormal(normal, rows[normal.kept])


def without_laboratory(own: OwnNormal, fields: Sequence[Field]) -> Judge:
    night = night_of(own, fields)
    return judge(own, night.normal, night.rows)


def at_laboratory(detector: Detector, fields: Sequence[Field]) -> Judge:
    """Commission some fields."""
    own = detector.own
    assert own is not None
    night = night_of(own, fields, LEAST_CELLS)
    parts = [kept_statistics(own, f.cells, 2, night) for f in fields]
    statistics = merged(parts, own)
    evidence = [slide_evidence(detector, statistics, f.cells, night) for f in fields]
    laboratory: LaboratoryNormal = laboratory_normal(
        own, statistics, [e for e in evidence if e is not None]
    )
    return judge(laboratory.own, laboratory.reference, np.zeros(0, np.intp))


def judge(own: OwnNormal, nearest: SlideNormal, rows: NDArray[np.intp]) -> Judge:
    """Compare cells with their field or, where it has too few, with what is nearest."""

    def p_values(cells: SlideCells) -> NDArray[np.float64]:
        normal = slide_normal(own.priors, cells.taps, cells.predicted)
        weighs = normal.kept
        if normal.level != "slide":
            normal, weighs = nearest, np.isin(cells.rows, rows)
        z = standardised_distances(normal, cells.taps, cells.predicted, weighs)
        return cell_scores(own.calibration, normal, z)[1]

    return p_values


def shares(p: Sequence[NDArray[np.float64]], fields: Sequence[Field]) -> list[float]:
    """Shares called abnormal, of red cells at .05 and .01, and of white cells."""
    found = np.concatenate(p)
    truth = np.concatenate([f.truth for f in fields])
    known = ~np.isnan(found) & np.concatenate([f.cells.predicted >= 0 for f in fields])
    return [
        float(np.mean(found[known & (truth == kind)] <= level))
        for kind in ("red", "white")
        for level in (0.05, 0.01)
    ]


def row(*values: object) -> None:
    texts = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in values)
    print("| " + " | ".join(texts) + " |", flush=True)


def main(store: str, batch: str) -> None:
    detector, fields = load(Store(store), batch)
    own = detector.own
    assert own is not None
    cells = sum(len(f.truth) for f in fields)
    big = sum(int((f.cells.predicted >= 0).sum()) >= Choices.least for f in fields)
    print(f"{len(fields)} fields, {cells:,} cells; {big} fields have a normal of their own\n")
    row("compared with", "fields screened", "red at .05", "red at .01", "white at .05",
        "white at .01")  # fmt: skip
    row(*["---"] * 6)
    row("the population", len(fields), *shares([f.population for f in fields], fields))
    judged = without_laboratory(own, fields)
    row(
        "no laboratory: field, or night",
        len(fields),
        *shares([judged(f.cells) for f in fields], fields),
    )
    one = [without_laboratory(own, [f])(f.cells) for f in fields]
    row("no laboratory, one field a night", len(fields), *shares(one, fields))
    for size in SIZES:
        found = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(fields))
            judged = at_laboratory(detector, [fields[i] for i in order[:size]])
            rest = [fields[i] for i in order[size:]]
            found.append(shares([judged(f.cells) for f in rest], rest))
        spread = np.std(found, axis=0)
        texts = [f"{m:.3f} ± {s:.3f}" for m, s in zip(np.mean(found, axis=0), spread, strict=True)]
        row(f"laboratory of {size} fields", len(fields) - size, *texts)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
