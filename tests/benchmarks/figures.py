"""Measure every figure of the README on the code as it is, and write its table of them.

    python -m tests.benchmarks.figures --work FOLDER --only speed alarms

A figure is kept in ``results/figures.json`` as soon as it is measured, with version, processor and
a digest of the code; one of the same code and processor is not measured again. What several need,
as the detectors of `tests.benchmarks.laboratories`, lies in a folder of that digest.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import duckdb
import numpy as np

from flows.smears.stages.chosen_thresholds import errors_of_detector, load_error_rates
from storage.models import classifiers, detectors, shipped
from storage.store import Store
from tasks.smears.counting.call import Call
from tasks.smears.counting.interpretation import detection_limit
from tests.benchmarks import laboratories, patients, trials
from tests.benchmarks.laboratories import CELLS, HOME, LABORATORIES, command, store_without
from tests.benchmarks.slides_of_known_parasitaemia import compose
from tests.benchmarks.slides_of_known_parasitaemia import measured as composed
from tests.support.paths import DATA, ROOT

KEPT = Path(__file__).parent / "results" / "figures.json"
README, SHIPPED = ROOT / "README.md", Path(shipped.FOLDER) / "README.md"
BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- end -->)", re.S)
FEATURES = ("amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")  # of a processor
STRANGE = ("bccd_white_cells", "cifar10", "mnist")
NIGHTS = ((540, 5), (540, 60), (150, 150))  # ordinary cells, and strange ones among them
CELLS_OF_SLIDE = 5000
Values = dict[str, Any]


class Figure(NamedTuple):
    """A row of the README: what it says of measured values, of which data, by which command."""

    title: str
    text: str
    data: str
    command: str
    measure: Callable[[Path], Values]


def folds(work: Path) -> Path:
    """Train with folds by patient, and fit; return the store."""
    folder = work / "folds"
    if not (folder / "store" / "detectors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CELLS).unlink(missing_ok=True)
        (folder / CELLS).symlink_to(DATA / CELLS)
        command(folder, "train", "--images", CELLS, "--folds", "4")
        command(folder, "fit", "--images", CELLS, "--batch", "fitted")
    return folder / "store"


def diagnosis(work: Path) -> Values:
    """Measure how patients are diagnosed who are left out of the training."""
    card = classifiers.find_card(Store(str(folds(work))), None, print)
    assert card.cross_validation is not None
    known = {row["metric"]: row for row in card.cross_validation.metrics if row["stain"] is None}
    chosen = {"accuracy": "accuracy", "auroc": "AUROC", "found": "sensitivity at 0.01"}
    values = {
        f"{name}{bound}": known[metric][bound.removeprefix("_") or "value"]
        for name, metric in chosen.items()
        for bound in ("", "_low", "_high")
    }
    return values | {"patients": known["AUROC"]["patients"]}


def detection(work: Path) -> Values:
    """Compose slides of known parasitaemia."""
    store = Store(str(folds(work)))
    card = detectors.load_detector_card(store)
    counts, rates = errors_of_detector(store, card), load_error_rates(store, card)
    assert counts is not None
    assert rates is not None
    assert card.counting is not None
    limit = detection_limit(CELLS_OF_SLIDE, rates.counting)
    rows = compose(counts, card.counting.cells, seed=0)
    held = []
    values: Values = {"limit": "none" if limit is None else f"{limit:.1%}"}
    for size, share, measure, (value, low, high) in composed(rows):
        if size == CELLS_OF_SLIDE and measure == "covered":
            held.append(value)
        if size == CELLS_OF_SLIDE and measure == "positive" and share == 0:
            values |= {"positive": value, "positive_low": low, "positive_high": high}
    return values | {"least": min(held), "most": max(held), "patients": len(counts.slides)}


def left_out(work: Path) -> Values:
    """Screen each laboratory by a detector that was made without it."""
    rows = laboratories.judged(work, [*LABORATORIES, HOME])
    table = laboratories.table(rows)
    del rows[HOME]
    ill = [row for row in rows.values() if row.auroc is not None]
    values: Values = {"fields": sum(row.files for row in rows.values()), "table": table}
    values["ill"] = sum(row.files for row in ill)
    for name in ("refused", "abnormal", "called", "auroc", "found"):
        known = [value for row in rows.values() if (value := getattr(row, name)) is not None]
        values |= {f"{name}_min": min(known), f"{name}_max": max(known)}
    return values


def called(work: Path) -> Values:
    """Call composed patients of all laboratories as a newcomer's are."""
    found = Counter[str]()
    for name in patients.OF_A_PATIENT:
        for kind, rows in patients.by_kind(*patients.called(work, name, 1.0, 0.0)).items():
            for row in rows:
                found.update(["patients", kind, row["call"], f"{kind}_{row['call']}"])
    kinds = ("infected", "healthy")
    zero = dict.fromkeys((f"{k}_{call.value}" for k in kinds for call in Call), 0) | {"negative": 0}
    return zero | found


def negative(work: Path) -> Values:
    """Try to have infected patients called negative."""
    total = trials.all_tried(work)
    return {"trials": total.total(), "negative": total["negative"]}


def alarms(work: Path) -> Values:
    """Count abnormal cells of unseen patients."""
    store = store_without(work, None)
    laboratories.judge(work, HOME, store)
    report = f"{store}/reports/images/*/{HOME}.parquet"
    shares = duckdb.sql(
        f"SELECT avg(abnormal::INT) FROM '{report}' WHERE abnormal IS NOT NULL GROUP BY patient_id"
    ).fetchall()
    known = [share for (share,) in shares]
    return {"mean": float(np.mean(known)), "highest": max(known), "patients": len(known)}


def strange(work: Path) -> Values:
    """Hide strange images among ordinary cells, without names, in a night of their own."""
    store = store_without(work, None)
    ordinary = sorted(laboratories.home(work, store).glob("*/*.png"))
    shares, lights = [], []
    with ZipFile(DATA / "ood.zip") as archive:
        for kind in STRANGE:
            names = sorted(n for n in archive.namelist() if n.startswith(kind) and "." in n)
            for n, m in (*NIGHTS, (0, NIGHTS[-1][1])):
                batch = f"{kind}-{n}-{m}"
                night = work / "nights" / batch
                night.mkdir(parents=True, exist_ok=True)
                for place, path in enumerate(ordinary[:: len(ordinary) // n][:n] if n else []):
                    (night / f"{place}.png").write_bytes(path.read_bytes())
                for place, name in enumerate(names[:m]):
                    (night / f"strange{place}{Path(name).suffix}").write_bytes(archive.read(name))
                command(store.parent, "screen", str(night), "--batch", batch, "--as", "cells")
                reports = f"{store}/reports"
                ((share,),) = duckdb.sql(
                    f"SELECT avg(coalesce(abnormal, true)::INT) FROM "
                    f"'{reports}/images/*/{batch}.parquet' WHERE contains(uri, '/strange')"
                ).fetchall()
                ((light,),) = duckdb.sql(
                    f"SELECT light FROM '{reports}/batches/*/{batch}.parquet'"
                ).fetchall()
                shares += [share] if n else []
                lights += [] if n else [light]
    return {"least": min(shares), "lights": ", ".join(sorted(set(lights)))}


def speed(work: Path) -> Values:
    """Time screening beside plain PyTorch, and the arithmetics beside each other."""
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "speed.jsonl"
    kept.unlink(missing_ok=True)
    files = [KEPT.parents[1] / f"test_{each}.py" for each in ("plain_pytorch", "arithmetic")]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "benchmark", *map(str, files)],
        cwd=ROOT, env=os.environ | {"SLIDEWATCH_BENCH_JSON": str(kept)}, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    plain, last, forward = (
        next(row for row in rows if row["name"].endswith(end))
        for end in ("plain PyTorch", "channels last", "beside float32")
    )
    return {
        "ours": round(plain["ours"]["median"]),
        "plain": round(plain["rival"]["median"]),
        "last": round(last["rival"]["median"]),
        "forward": f"{forward['ratio']['median']:.2f}",
    }


FIGURES = {
    "diagnosis": Figure(
        "Diagnosis of patients never seen, four folds (95% interval)",
        "accuracy {accuracy} ({accuracy_low} to {accuracy_high}), AUROC {auroc} ({auroc_low} to "
        "{auroc_high}), {found} of the parasites found at 1% false positives",
        "{patients} NIH patients",
        "train --folds 4",
        diagnosis,
    ),
    "laboratories": Figure(
        "Seven laboratories, each by a detector made without it (settings were chosen on them)",
        "{refused_max} of the slides refused, {abnormal_min} to {abnormal_max} of healthy cells "
        "abnormal, {called_min} to {called_max} called parasitized; where there are parasites "
        "AUROC {auroc_min} and {auroc_max}, {found_min} and {found_max} of them found",
        "{fields} fields, {ill} of them of laboratories with *P. vivax*",
        "python -m tests.benchmarks.laboratories",
        left_out,
    ),
    "patients": Figure(
        "Patients of seven laboratories, called by a detector made without theirs",
        "of {infected} with 1% parasites or more {infected_positive} are positive, "
        "{infected_suspected} suspected, {infected_unreadable} unreadable; of {healthy} without a "
        "marked parasite {healthy_positive} are positive, {healthy_suspected} suspected; "
        "{negative} of all are negative",
        "{patients} patients composed of the same photographs",
        "python -m tests.benchmarks.patients",
        called,
    ),
    "negative": Figure(
        "Infected patients called negative: five sizes, sharp and blurred, new and commissioned",
        "{negative} of {trials} trials",
        "patients with *P. vivax*, composed of photographs of two laboratories",
        "python -m tests.benchmarks.trials",
        negative,
    ),
    "alarms": Figure(
        "Cells of unseen patients called abnormal, at level .05",
        "mean {mean}, highest patient {highest}",
        "{patients} NIH patients",
        "screen, query",
        alarms,
    ),
    "strange": Figure(
        "White cells, natural images, digits: 1% to half of a night without names",
        "{least} are abnormal at least; a night of such images alone is {lights}",
        "NIH, BCCD, CIFAR-10, MNIST",
        "screen, query",
        strange,
    ),
    "detection": Figure(
        f"Limit of detection on slides of {CELLS_OF_SLIDE:,} cells, one model with folds",
        "{limit} parasitaemia; intervals hold {least} to {most} of the parasitaemias; of healthy "
        "patients' slides {positive} ({positive_low} to {positive_high}) are called positive",
        "composed from {patients} NIH patients",
        "make figures",
        detection,
    ),
    "speed": Figure(
        "Speed on two cores, from the archive to the report, in int8",
        "{ours} images a second; a PyTorch DataLoader with scikit-learn in the same run: {plain}, "
        "channels last: {last}. A forward pass in int8 is {forward} times one in float32",
        "2,048 NIH cells",
        "make bench",
        speed,
    ),
}


def shown(value: Any) -> str:
    """Write a measured value, a share by three digits."""
    if isinstance(value, float):
        return f"{value:.3f}".removeprefix("0")
    return f"{value:,}" if isinstance(value, int) else str(value)


def readme_with(document: str, kept: dict[str, Values]) -> str:
    """Write the table of kept figures between the two comments of a document."""
    lines = ["| | figure | version and data | command |", "|---|---|---|---|"]
    processors = sorted({row["processor"] for row in kept.values()})
    for name, figure in FIGURES.items():
        if name in kept:
            row = kept[name]
            values = {each: shown(value) for each, value in row["values"].items()}
            text, data = figure.text.format(**values), figure.data.format(**values)
            lines.append(
                f"| {figure.title} | {text} | {row['version']}, {data} | `{figure.command}` |"
            )
    lines += ["", f"Measured by `make figures` on {'; '.join(processors)}.", ""]
    return BLOCK.sub(lambda found: found[1] + "\n".join(lines) + found[2], document)


def shipped_with(document: str, kept: dict[str, Values]) -> str:
    """Replace the table of laboratories, which ends the document of the detector."""
    if "laboratories" not in kept:
        return document
    return document[: document.index("| | files")] + kept["laboratories"]["values"]["table"] + "\n"


def code() -> str:
    """Compute the digest of the code, without that of the detector that comes along."""
    files = (path for each in ("flows", "tasks", "storage") for path in (ROOT / each).rglob("*.py"))
    lines = [
        f"{sha256(path.read_bytes()).hexdigest()} {path.relative_to(ROOT)}"
        for path in sorted(files)
        if path != Path(shipped.__file__)
    ]
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def processor() -> str:
    """Describe the processor by what decides the speed of a network."""
    cpus = Path("/proc/cpuinfo")
    flags = cpus.read_text() if cpus.exists() else ""
    known = [each.upper() for each in FEATURES if re.search(rf"\b{each}\b", flags)]
    return f"{os.cpu_count()} cores of {platform.machine()} ({', '.join(known) or 'unknown'})"


def measured(work: Path, names: list[str]) -> Iterator[tuple[str, Values]]:
    """Measure the figures of some names, those that are not known of this code and processor."""
    about = {"version": version("slidewatch"), "processor": processor(), "code": code()}
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in names:
        if any(kept.get(name, {}).get(key) != value for key, value in about.items()):
            yield name, about | {"values": FIGURES[name].measure(work)}


def main() -> None:
    """Measure, keep each figure at once, and write the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder to keep everything in")
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=[*FIGURES])
    given = parser.parse_args()
    for name, row in measured(given.work.resolve() / code(), given.only):
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        kept[name] = row
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        print(name, {key: value for key, value in row["values"].items() if key != "table"})
        README.write_text(readme_with(README.read_text(), kept))
        SHIPPED.write_text(shipped_with(SHIPPED.read_text(), kept))


if __name__ == "__main__":
    main()
