"""Measure what two witnesses see at a laboratory of P. vivax, and what its labelled cells add.

    python -m tests.benchmarks.witness_trial STORE PHOTOS

STORE has a screened batch named ``vivax`` of photographs at PHOTOS, the unpacked vivax_fields.zip:
``slidewatch segment --images PHOTOS --name vivax``, then ``slidewatch screen`` of its manifest with
``--batch vivax``. The first table is of the report. The second gives some cells of half of the
fields as labels, and measures the other half: by a scale and a bias of the log-odds, and by class
statistics of the labelled cells, each weighing as several fitted ones.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from flows.jobs.fitting.statistics import slides_of_version
from storage.batches.features import read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models.classifiers import find_card
from storage.models.detectors import load_detector, load_detector_card
from storage.reports.tables import IMAGES
from storage.store import Store
from tasks.detector.detector import Detector
from tasks.detector.probabilities import fit_adaptation, log_odds
from tasks.detector.slides.groups import GroupKey, GroupStatistics, group_statistics, merge_groups
from tasks.detector.witnesses import Discriminant, Witnesses, discriminant
from tests.support.boxes import overlap

STAGES = ("ring", "trophozoite", "schizont", "gametocyte")
HEALTHY = "red blood cell"
GIVEN, WEIGHTS, DRAWS = (20, 60, 200), (1, 5, 20, 100), 6
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


def line(name: str, scores: Scores, parasitized: NDArray[np.bool_]) -> str:
    """AUROC, sensitivity at 1% and .3% false positives, and both rates at log-odds of 0."""
    found, healthy = scores[parasitized], scores[~parasitized]
    at = [float((found > np.quantile(healthy, 1 - rate)).mean()) for rate in (0.01, 0.003)]
    return (
        f"| {name} | {roc_auc_score(parasitized, scores):.4f} | {at[0]:.3f} | {at[1]:.3f} "
        f"| {(found > 0).mean():.3f} | {(healthy > 0).mean():.4f} |"
    )


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
        "both": "first_probability_Parasitized",
        "both, after the second look": "probability_Parasitized",
    }
    for name, column in names.items():
        print(line(name, odds(column), truth.parasitized))
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


def relative(known: Discriminant, taps: dict[str, Scores], truth: Truth, network: Scores) -> Scores:
    """Score cells relative to their fields."""
    scores = known.scores(taps)
    leans = known.leans(scores, network < 0, truth.fields)
    return scores - np.asarray([leans[field] for field in truth.fields.tolist()])


def of_labelled_cells(store: Store, truth: Truth, witnesses: Witnesses) -> None:
    """Print what labelled cells of half of the fields add on the other half."""
    model, detector = find_card(store, None), load_detector_card(store)
    home = slides_of_version(store, model.name, detector.statistics_version)
    batch = load_batch(store, "vivax")
    block = read_block(store, model.name, batch.key, 0, batch.rows).take(truth.rows)
    taps = {tap: np.asarray(block.taps[tap], np.float64) for tap in home.taps}
    network = log_odds(block.logits, model.temperature, witnesses.positive)
    before = witnesses.scales.testify(
        network, relative(witnesses.discriminant, taps, truth, network)
    ).both
    rng, parasitized = np.random.default_rng(0), truth.parasitized
    draws: dict[str, list[tuple[Scores, NDArray[np.bool_]]]] = {}
    for _ in range(DRAWS):
        fields = rng.permutation(np.unique(truth.fields))
        gives = np.isin(truth.fields, fields[: len(fields) // 2])
        draws.setdefault("nothing", []).append((before[~gives], parasitized[~gives]))
        for count in GIVEN:
            halves = [
                rng.permutation(np.flatnonzero(gives & (parasitized == kind)))[: count // 2]
                for kind in (True, False)
            ]
            chosen = np.concatenate(halves)
            scaled = fit_adaptation(before[chosen], parasitized[chosen]).of(before)
            found = {f"{count} cells, scale and bias": scaled}
            labels = np.where(parasitized[chosen], witnesses.positive, 1 - witnesses.positive)
            keys = [GroupKey("site", "", "")] * count
            mine = {tap: values[chosen] for tap, values in taps.items()}
            site = group_statistics(mine, labels, keys, 2)
            for weight in WEIGHTS:
                known = discriminant(merge_groups(home, weighed(site, weight)), witnesses.positive)
                both = witnesses.scales.testify(network, relative(known, taps, truth, network)).both
                name = f"{count} cells, statistics that weigh {weight} times"
                found[name] = both
                found[f"{name}, then scale and bias"] = fit_adaptation(
                    both[chosen], parasitized[chosen]
                ).of(both)
            for name, scores in found.items():
                draws.setdefault(name, []).append((scores[~gives], parasitized[~gives]))
    print(HEAD)
    for name, drawn in draws.items():
        print(line(name, *joined(drawn)))


def joined(drawn: Sequence[tuple[Scores, NDArray[np.bool_]]]) -> tuple[Scores, NDArray[np.bool_]]:
    """All draws together."""
    return np.concatenate([s for s, _ in drawn]), np.concatenate([p for _, p in drawn])


def weighed(statistics: GroupStatistics, times: float) -> GroupStatistics:
    """Let every cell count several times."""
    scatter = {tap: times * values for tap, values in statistics.scatter.items()}
    return replace(statistics, n=times * statistics.n, scatter=scatter)


def main(address: str, photos: Path) -> None:
    """Print both tables."""
    store = Store(address)
    truth = truth_of(store, photos)
    known = Detector.from_arrays(load_detector(store, load_detector_card(store))).witnesses
    assert known is not None
    of_the_report(store, truth)
    of_labelled_cells(store, truth, known)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
