"""Leave one laboratory out at a time, and screen it as a newcomer would.

    python -m tests.benchmarks.laboratories --work /tmp/laboratories
    python -m tests.benchmarks.laboratories --work /tmp/laboratories --only raabin

For each laboratory everything is made without it: network, statistics, limits, thresholds. Then its
photographs are screened by command. Defaults are chosen by the mean
and the worst laboratory of the table, and by nothing else. The first run trains, and takes an hour;
a later one screens kept features in minutes.

A laboratory without malaria teaches the network nothing (`train` leaves it out), so one network
serves all, and leaving such a laboratory out means to fit without it.

Labels judge, and are never given to slidewatch. A found cell has the label of the box that it
overlaps by half (intersection over union); other cells are left out. Home is the NIH patients that
the model has not seen.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from flows.jobs import networks
from flows.smears.jobs.known_cells import CLASSES, fitted_classes
from storage.models import classifiers, detectors, shipped
from storage.records import arrays_to_bytes
from storage.store import Store, digest_of
from tasks.images.names import parse_name
from tasks.reports.image_columns import PARASITIZED
from tasks.types import nested
from tests.support.boxes import overlap
from tests.support.paths import DATA

WITHOUT, PARASITES = {"red blood cell", "red cell", "healthy", "RBC"}, {
    *("infected", "ring", "trophozoite", "schizont", "gametocyte")
}  # fmt: skip
BESIDE_WEIGHTS = tuple(
    f"{each}/" for each in (networks.CUTTING, networks.GRAPH, networks.HOME)
)  # of a model's file
ABOUT = """# The detector that comes with slidewatch

Made by `make detector`. The network learned from cells of NIH, of its training patients alone;
class statistics and limits also from red cells of BCCD, Raabin and Barcelona, without malaria.

| data | source | licence |
|---|---|---|
| NIH | malaria cells of the US National Library of Medicine | cite Rajaraman et al. 2018 |
| BCCD | blood cell count and detection set | MIT |
| Raabin, Barcelona | TXL-PBC set of white blood cells | MIT |

Figures of laboratories, each by a detector that was made without it, as `python -m
tests.benchmarks.laboratories` prints them: shares, and of the ten likeliest cells the parasites.
Not a medical device.
"""
OVERLAP = 0.5  # of a found cell and a box that gives it its label
LIKELIEST = 10  # cells that a person is shown first, of fields with as many parasites together
LIGHT = "light"


@dataclass(frozen=True)
class Laboratory:
    """Photographs in an archive of the data folder, below ``folder``.

    Where ``trains``, the laboratory is free of malaria, and a published model may learn from it.
    """

    archive: str
    folder: str
    trains: bool = False


LABORATORIES = {
    "bccd": Laboratory("fields.zip", "bccd", trains=True),
    "raabin": Laboratory("laboratories.zip", "laboratories/raabin", trains=True),
    "barcelona": Laboratory("laboratories.zip", "laboratories/barcelona", trains=True),
    "iml": Laboratory("vivax_fields.zip", "vivax_fields"),
    "bbbc041": Laboratory("laboratories.zip", "laboratories/bbbc041"),
    "uganda": Laboratory("laboratories.zip", "laboratories/uganda"),
    "uganda_sickle": Laboratory("laboratories.zip", "laboratories/uganda_sickle"),
}
HOME, CELLS = "home", "cell_images.zip"
Boxes = Mapping[str, list[tuple[str, float, float, float, float]]]  # by the file's name


@dataclass
class Figures:
    """The figures of a laboratory, in the order of the table's columns."""

    files: int = 0
    recognised: float | None = None
    recall_healthy: float | None = None
    recall_parasites: float | None = None
    refused: float | None = None
    abnormal: float | None = None
    auroc: float | None = None
    found_at_1: float | None = None
    found_at_03: float | None = None
    found_at_01: float | None = None
    found: float | None = None
    called: float | None = None
    likeliest: float | None = None
    light: str = ""
    calls: dict[str, int] = field(default_factory=dict)


def command(work: Path, *words: str) -> str:
    """Run slidewatch in a folder, and return what it printed; a night with failures is one too."""
    known = os.environ | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "flows.commands.main", *words],
        cwd=work, env=known | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode not in (0, 3):
        raise SystemExit(f"slidewatch {' '.join(words)}: {run.stderr[-2000:]}")
    return run.stdout


def unpacked(work: Path, name: str) -> Path:
    """Unpack a laboratory's photographs, once, in a folder that says nothing about them."""
    laboratory = LABORATORIES[name]
    folder = work / "photographs" / name / "photographs"
    if not folder.exists():
        folder.mkdir(parents=True)
        with zipfile.ZipFile(DATA / laboratory.archive) as archive:
            for member in archive.namelist():
                if member.startswith(f"{laboratory.folder}/") and member.lower().endswith("jpg"):
                    (folder / Path(member).name).write_bytes(archive.read(member))
    return folder


def boxes_of(name: str) -> Boxes:
    """Read the boxes of a laboratory's photographs, where there are any."""
    laboratory = LABORATORIES[name]
    with zipfile.ZipFile(DATA / laboratory.archive) as archive:
        if name == "iml":
            rows = json.loads(archive.read("vivax_fields/cells.json"))
            return {row["image"]: row["cells"] for row in rows}
        if name == "bccd":
            return {}  # its boxes miss cells
        known = json.loads(archive.read("laboratories/cells.json"))
    return {Path(key).name: cells for key, cells in known.items() if key.startswith(f"{name}/")}


def store_without(work: Path, left_out: str | None) -> Path:
    """Fit on all laboratories that may be used but one, unless that was done; train if need be."""
    folder = work / f"without-{left_out or 'none'}"
    store = folder / "store"
    if not (store / "detectors").exists():
        if left_out:
            known = store_without(work, None) / "models"
            shutil.copytree(known, store / "models", dirs_exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CELLS).unlink(missing_ok=True)
        (folder / CELLS).symlink_to(DATA / CELLS)  # a published card names no folder of a machine
        images = ["--images", f"nih={CELLS}"]
        for name, laboratory in LABORATORIES.items():
            if laboratory.trains and name != left_out:
                healthy = unpacked(work, name).with_name("Uninfected")
                if not healthy.exists():
                    healthy.symlink_to("photographs")
                command(
                    folder, "segment", "--images", str(healthy), "--name", name,
                    "--slide-is", "file",
                )  # fmt: skip
                images += ["--images", f"{name}=store/segmentations/{name}/manifest.parquet"]
        if not (store / "models").exists():
            command(folder, "train", *images, "--arithmetic", "int8")
        command(folder, "fit", *images, "--batch", "fitted")
    return store


def screened(store: Path, batch: str, images: Path) -> dict[str, Any]:
    """Screen a folder by command, and return its reports as lists of rows by table."""
    command(
        store.parent, "screen", "--images", str(images), "--batch", batch, "--store", str(store),
        "--force", "--slide-is", "file",
    )  # fmt: skip
    reports = store / "reports"
    return {
        kind: duckdb.sql(f"FROM read_parquet('{reports}/{kind}/*/{batch}.parquet')").df()
        for kind in ("images", "slides", "patients", "batches")
    }


def home(work: Path, store: Path) -> Path:
    """Write the cells of patients that a model has not seen into folders by label."""
    folder = store.parent / HOME
    if not folder.exists():
        card = classifiers.find_card(Store(str(store)), None, lambda _: None)
        unseen = {
            key.rpartition("::")[2] for key in (*card.split["validation"], *card.split["test"])
        }
        with zipfile.ZipFile(DATA / CELLS) as archive:
            for member in archive.namelist():
                name = Path(member)
                if name.suffix == ".png" and parse_name(name.name).patient_id in unseen:
                    (folder / name.parent.name).mkdir(parents=True, exist_ok=True)
                    (folder / name.parent.name / name.name).write_bytes(archive.read(member))
    return folder


def matched(images: Any, boxes: Boxes) -> tuple[np.ndarray, dict[str, float]]:
    """Label cells (n,), 1 parasite, 0 healthy, -1 neither; and give the found boxes' shares."""
    labels = np.full(len(images), -1)
    hit: dict[str, list[bool]] = defaultdict(list)
    places = defaultdict[str, list[int]](list)
    for row, uri in enumerate(images["source_uri"]):
        if isinstance(uri, str):
            places[Path(uri).name].append(row)
    for name, known in boxes.items():
        rows = places.get(name, [])
        found, boxed = (
            np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]])
            for sides in (
                images.iloc[rows][["x", "y", "width", "height"]].to_numpy(float),
                np.asarray([cell[1:] for cell in known], float).reshape(-1, 4),
            )
        )
        over = overlap(found, boxed)
        for place, (kind, *_) in enumerate(known):
            what = "healthy" if kind in WITHOUT else "parasites" if kind in PARASITES else "other"
            hit[what].append(bool(len(rows)) and bool(over[:, place].max() >= OVERLAP))
        for place, row in enumerate(rows):
            best = int(over[place].argmax()) if len(known) else 0
            if len(known) and over[place, best] >= OVERLAP:
                kind = known[best][0]
                labels[row] = 0 if kind in WITHOUT else 1 if kind in PARASITES else -1
    return labels, {what: float(np.mean(each)) for what, each in hit.items()}


def figures(reports: Mapping[str, Any], labels: np.ndarray, files: int) -> Figures:
    """Compute the figures of a screened laboratory from its reports and labels (n,) of cells."""
    images, slides, (night,) = (
        reports["images"],
        reports["slides"],
        reports["batches"].to_dict("records"),
    )
    judged = (images["status"] == "scored").to_numpy() & (labels >= 0)
    odds, truth = images["log_odds"].to_numpy()[judged], labels[judged]
    whole = judged & images["p_value"].notna().to_numpy() & (labels == 0)
    row = Figures(files)
    sources = images["source_uri"].fillna("").map(lambda uri: Path(uri).name)
    row.recognised = len({name for name in sources if name}) / files
    wrong = slides["implausible"].fillna(False).astype(bool)
    row.refused = float(wrong.mean())
    if whole.any():
        row.abnormal = float(images["abnormal"].to_numpy(bool)[whole].mean())
        row.called = float((odds[truth == 0] > 0).mean())
    if truth.any() and not truth.all():
        row.auroc = float(roc_auc_score(truth, odds))
        false, found, _ = roc_curve(truth, odds)
        row.found_at_1, row.found_at_03, row.found_at_01 = (
            float(found[false <= share].max()) for share in (0.01, 0.003, 0.001)
        )
        row.found = float((odds[truth == 1] > 0).mean())
        row.likeliest = _likeliest(sources.to_numpy()[judged], odds, truth)
    row.light = str(night[LIGHT])
    row.calls = reports["patients"]["call"].value_counts().to_dict()
    return row


def _likeliest(names: np.ndarray, odds: np.ndarray, truth: np.ndarray) -> float | None:
    """Average how many of the `LIKELIEST` cells are parasites, over fields with as many in all."""
    group, numbers = 0, np.zeros(len(names), int)
    parasites = 0
    for name in sorted(set(names.tolist())):
        numbers[names == name] = group
        parasites += int(truth[names == name].sum())
        if parasites >= LIKELIEST:
            group, parasites = group + 1, 0
    counts = []
    for number in range(group):
        members = np.flatnonzero(numbers == number)
        counts.append(truth[members[np.argsort(-odds[members])[:LIKELIEST]]].sum())
    return float(np.mean(counts)) if counts else None


def judged(work: Path, names: Iterable[str]) -> dict[str, Figures]:
    """Judge laboratories or home, each by a detector that was made without it."""
    rows = {}
    for name in names:
        trains = name in LABORATORIES and LABORATORIES[name].trains
        rows[name] = judge(work, name, store_without(work, name if trains else None))
        print(name, vars(rows[name]), flush=True)
    return rows


def judge(work: Path, name: str, store: Path) -> Figures:
    """Screen a laboratory, or the unseen patients of home, and judge the report."""
    if name == HOME:
        reports = screened(store, HOME, home(work, store))
        labels = (reports["images"]["label"] == "Parasitized").to_numpy().astype(int)
        row = figures(reports, labels, len(labels))
        row.recognised = None
        return row
    folder = unpacked(work, name)
    reports = screened(store, name, folder)
    labels, recall = matched(reports["images"], boxes_of(name))
    if name == "bccd":
        labels = np.where(reports["images"]["kind"] == "red", 0, -1)
    row = figures(reports, labels, len(list(folder.iterdir())))
    row.recall_healthy, row.recall_parasites = recall.get("healthy"), recall.get("parasites")
    return row


def table(rows: Mapping[str, Figures]) -> str:
    """Write the figures as Markdown, with the mean and the worst laboratory."""
    names = [name for name in vars(Figures()) if name not in (LIGHT, "calls", "files")]
    lines = [f"| | files | {' | '.join(names)} | light | calls |", "|---" * (len(names) + 4) + "|"]

    def line(name: str, values: Iterable[float | None], rest: str) -> str:
        texts = ["" if value is None else f"{value:.3f}" for value in values]
        return f"| {name} | {' | '.join(texts)} | {rest} |"

    for name, row in rows.items():
        calls = ", ".join(f"{n} {call}" for call, n in row.calls.items())
        values = [getattr(row, each) for each in names]
        lines.append(line(f"{name} | {row.files}", values, f"{row.light} | {calls}"))
    abroad = [row for name, row in rows.items() if name != HOME]
    less = {"refused", "abnormal", "called"}  # better where it is less
    known = {each: [v for row in abroad if (v := getattr(row, each)) is not None] for each in names}
    summaries: dict[str, Callable[[str, list[float]], float]] = {
        "mean": lambda _, values: float(np.mean(values)),
        "worst": lambda each, values: max(values) if each in less else min(values),
    }
    for name, summary in summaries.items():
        values = [summary(each, known[each]) if known[each] else None for each in names]
        lines.append(line(f"**{name}** | ", values, " | "))
    return "\n".join(lines)


def ship(work: Path, figures_table: str) -> None:
    """Put the detector of all laboratories into the package, with its figures."""
    store, into = Store(str(store_without(work, None))), Store(str(shipped.FOLDER))
    shutil.rmtree(shipped.FOLDER, ignore_errors=True)
    card = detectors.load_detector_card(store)
    model = detectors.load_model_of(store, card)
    arrays = classifiers.load_weights(store, model)
    beside = {name: each for name, each in arrays.items() if name.startswith(BESIDE_WEIGHTS)}
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    content, name = arrays_to_bytes(beside), f"slidewatch-{project['version']}"
    made_by = {"versions": model.versions | {"slidewatch": project["version"]}}
    known = made_by | {"name": name, "digest": digest_of(content), "sequence": 1}
    classifiers.save_model(into, model.model_copy(update=known), content)
    arrays = detectors.load_detector(store, card)
    positive = model.classes.index(PARASITIZED)
    arrays |= nested(CLASSES, fitted_classes(store, card, positive).to_arrays())
    content = arrays_to_bytes(arrays)
    known = {"name": name, "model": name, "model_digest": known["digest"], "sequence": 1}
    known["digest"] = digest_of(content)
    detectors.save_detector(into, card.model_copy(update=known), content)
    into.write_bytes(f"{ABOUT}\n{figures_table}\n".encode(), "README.md")
    code = Path(shipped.__file__)
    code.write_text(code.read_text().replace(shipped.DIGEST, shipped.digest_of_files(into)))


def main() -> None:
    """Print the table of the laboratories, each by a detector that was made without it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder to keep everything in")
    parser.add_argument("--only", nargs="*", help="laboratories; by default all, and home")
    parser.add_argument("--ship", action="store_true", help="keep the detector in the package")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows = judged(work, given.only or [*LABORATORIES, HOME])
    print(table(rows))
    if given.ship:
        ship(work, table(rows))


if __name__ == "__main__":
    main()
