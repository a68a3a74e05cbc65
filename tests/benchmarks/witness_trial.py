"""Measure what two witnesses see at a laboratory of P. vivax, and what its labelled cells add.

    python -m tests.benchmarks.witness_trial STORE PHOTOS

STORE has a screened batch named ``vivax`` of photographs at PHOTOS, the unpacked vivax_fields.zip:
``slidewatch segment --images PHOTOS --name vivax``, then ``slidewatch screen`` of its manifest with
``--batch vivax``. The first table is of the report. The second gives some cells of half of the
fields as labels, half of them parasites, and measures the other half as `commission` would have
them diagnosed: by a scale and a bias of the log-odds, by class statistics, and by both. Its figures
are means over draws. The third does the same at the model's own laboratory, where labels have
nothing to add: STORE has a screened batch named ``home`` of all labelled cells of its model.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from flows.jobs.known_cells import fitted_classes
from storage.batches.features import read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models.classifiers import find_card
from storage.models.detectors import load_detector, load_detector_card
from storage.reports.tables import IMAGES
from storage.store import Store
from tasks.detector.detector import Detector
from tasks.detector.probabilities import UNCHANGED, log_odds
from tasks.detector.slides.cell_score import Taps
from tasks.detector.witnesses import Discriminant, Witnesses, shifts
from tasks.laboratories.adaptation import Change, Fitted, Labelled, try_adaptation
from tests.support.boxes import overlap

STAGES = ("ring", "trophozoite", "schizont", "gametocyte")
HEALTHY = "red blood cell"
GIVEN, DRAWS = (20, 60, 200), 20
WAYS = (("scale and bias", False, True), ("statistics", True, False), ("both", True, True))
NO_CHANGE = Change(UNCHANGED)
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What cells of known kind are: rows of the batch, fields, kinds, and who has a parasite."""

    rows: NDArray[np.intp]
    fields: NDArray[np.str_]
    kinds: NDArray[np.str_]

    @property
    def parasitized(self) -> NDArray[np.bool_]:
        return np.isin(self.kinds, STAGES)


def truth_of(store: Store, photos: Path) -> Truth:
    """Find the box that each whole cell of the batch lies in (half of the union or more)."""
    table = read_manifest(store, load_batch(store, "vivax"))
    (path,) = photos.rglob("cells.json")
    known = {each["image"]: each["cells"] for each in json.loads(path.read_text())}
    sources = np.asarray([uri.rsplit("/", 1)[-1] for uri in table["source_uri"].to_pylist()])
    boxes = np.stack(
        [np.asarray(table[c].to_pylist(), float) for c in ("x", "y", "width", "height")], axis=1
    )
    boxes[:, 2:] += boxes[:, :2]
    kinds = np.full(len(sources), "", dtype="U16")
    for name, cells in known.items():
        mine = np.flatnonzero(sources == name)
        if not len(mine) or not cells:
            continue
        marked = np.asarray([[x, y, x + w, y + h] for _, x, y, w, h in cells], float)
        shared = overlap(boxes[mine], marked)
        sure = shared.max(axis=1) >= 0.5
        kinds[mine[sure]] = np.asarray([cell[0] for cell in cells])[shared.argmax(axis=1)[sure]]
    red = np.asarray(table["kind"].to_pylist()) == "red"
    cut = np.asarray(table["touches_border"].to_pylist(), bool) & red
    rows = np.flatnonzero(np.isin(kinds, (HEALTHY, *STAGES)) & ~cut)
    return Truth(rows, sources[rows], kinds[rows])


Drawn = Sequence[tuple[Scores, NDArray[np.bool_]]]


def line(name: str, drawn: Drawn) -> str:
    """AUROC, sensitivity at 1% and .3% false positives, and both rates at log-odds of 0.

    They are means over draws of scores, and of who has a parasite.
    """
    rows = []
    for scores, parasitized in drawn:
        found, healthy = scores[parasitized], scores[~parasitized]
        at = [float((found > np.quantile(healthy, 1 - rate)).mean()) for rate in (0.01, 0.003)]
        area = roc_auc_score(parasitized, scores)
        rows.append([area, *at, (found > 0).mean(), (healthy > 0).mean()])
    area, one, third, called, false = np.mean(rows, axis=0).tolist()
    return f"| {name} | {area:.4f} | {one:.3f} | {third:.3f} | {called:.3f} | {false:.4f} |"


# The last two are at log-odds of 0.
HEAD = "| | AUROC | found at 1% | at .3% | found | healthy called |\n|---|---|---|---|---|---|"


def of_the_report(store: Store, truth: Truth) -> None:
    """Print what the report says, by witness and stage, and what disagreement tells."""
    (path,) = Path(store.root.removeprefix("file://")).glob(f"reports/{IMAGES}/*/vivax.parquet")
    table = pq.read_table(path)
    place = {uri: row for row, uri in enumerate(table["uri"].to_pylist())}
    uris = read_manifest(store, load_batch(store, "vivax"))["uri"].to_pylist()
    table = table.take([place[uris[row]] for row in truth.rows.tolist()])

    def odds(name: str) -> Scores:
        chances = np.asarray(table[name].to_numpy(), np.float64)
        return np.asarray(logit(np.clip(chances, 1e-9, 1 - 1e-7)))

    print(HEAD)
    names = {
        "network": "network_probability",
        "statistics": "statistics_probability",
        "both": "probability_Parasitized",
    }
    for name, column in names.items():
        print(line(name, [(odds(column), truth.parasitized)]))
    called = odds("probability_Parasitized") > 0
    print(", ".join(f"{s} {called[truth.kinds == s].mean():.2f}" for s in STAGES), "are found")
    wrong = called != truth.parasitized
    apart = np.asarray(["disagree" in (r or "") for r in table["review_reason"].to_pylist()])
    sure = np.abs(odds("probability_Parasitized"))
    doubtful = np.argsort(sure, kind="stable")[: len(sure) // 10]
    print(
        f"the witnesses disagree on {apart.mean():.1%} of the cells, {wrong[apart].mean():.0%} of "
        f"which are diagnosed wrongly; of the errors they are {apart[wrong].mean():.0%}. The most "
        f"doubtful tenth has {wrong[doubtful].sum() / wrong.sum():.0%} of the errors"
    )


def relative(known: Discriminant, taps: Taps, truth: Truth, network: Scores) -> Scores:
    """Score cells relative to their fields."""
    scores = known.scores(taps)
    leans = known.leans(scores, network < 0, truth.fields)
    return scores - np.asarray([leans[field] for field in truth.fields.tolist()])


def of_labelled_cells(store: Store, name: str, truth: Truth, witnesses: Witnesses) -> None:
    """Print what labelled cells of half of the fields, or patients, change on the other half."""
    model, detector = find_card(store, None), load_detector_card(store)
    fitted = Fitted(fitted_classes(store, detector, witnesses.positive), witnesses.scales)
    batch = load_batch(store, name)
    block = read_block(store, model.name, batch.key, 0, batch.rows).take(truth.rows)
    network = log_odds(block.logits, model.temperature, witnesses.positive)

    def said(known: Discriminant) -> Scores:
        scores = relative(known, block.taps, truth, network)
        return witnesses.scales.combine(network, scores).both

    before, parasitized = said(witnesses.discriminant), truth.parasitized
    features = less_shifts(fitted, block.taps, truth, network)
    cells = Labelled(before, parasitized, tuple(truth.fields.tolist()), network, features)
    draws: dict[str, list[tuple[Scores, NDArray[np.bool_]]]] = {}
    taken = dict.fromkeys(GIVEN, 0)
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        fields = rng.permutation(np.unique(truth.fields))
        gives = np.isin(truth.fields, fields[: len(fields) // 2])
        draws.setdefault("nothing", []).append((before[~gives], parasitized[~gives]))
        for count in GIVEN:
            halves = [
                rng.permutation(np.flatnonzero(gives & (parasitized == kind)))[: count // 2]
                for kind in (True, False)
            ]
            mine = cells.take(np.concatenate(halves))
            ways = {
                f"{count} cells, {name}": Change.by(mine, fitted, statistics=first, scale=second)
                for name, first, second in WAYS
            }
            trial = try_adaptation(mine, fitted)
            assert trial is not None
            taken[count] += trial.accepted
            ways[f"{count} cells, what is accepted"] = trial.change if trial.accepted else NO_CHANGE
            for name, change in ways.items():
                x = before if change.discriminant is None else said(change.discriminant)
                scores = change.adaptation.of(x)
                draws.setdefault(name, []).append((scores[~gives], parasitized[~gives]))
    print(HEAD)
    for name, drawn in draws.items():
        print(line(name, drawn))
    print(f"accepted of {DRAWS} draws, by cells: {taken}")


def at_home(store: Store) -> Truth:
    """Return the cells of patients that training has not seen; patients stand for fields."""
    table, split = read_manifest(store, load_batch(store, "home")), find_card(store, None).split
    patients = np.asarray(table["patient_id"].to_pylist())
    kinds = np.where(np.asarray(table["label"].to_pylist()) == "Parasitized", "ring", HEALTHY)
    rows = np.flatnonzero(np.isin(patients, [*split["validation"], *split["test"]]))
    return Truth(rows, patients[rows], kinds[rows])


def less_shifts(
    fitted: Fitted, taps: Taps, truth: Truth, network: Scores
) -> dict[str, NDArray[np.float32]]:
    """Features less the shift of each field."""
    found = {tap: np.array(taps[tap], np.float32) for tap in fitted.classes.healthy}
    for field in np.unique(truth.fields):
        mine = truth.fields == field
        own = {tap: values[mine] for tap, values in taps.items()}
        for tap, shift in shifts(own, network[mine] < 0, fitted.classes.healthy).items():
            found[tap][mine] -= shift.astype(np.float32)
    return found


def main(address: str, photos: Path) -> None:
    """Print the tables."""
    store = Store(address)
    truth = truth_of(store, photos)
    known = Detector.from_arrays(load_detector(store, load_detector_card(store))).witnesses
    assert known is not None
    of_the_report(store, truth)
    of_labelled_cells(store, "vivax", truth, known)
    of_labelled_cells(store, "home", at_home(store), known)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
