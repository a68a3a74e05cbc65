"""Bits flipped in every kind of file of a store: named by the commands that read it, or harmless.

Each store is looked at by `tests.support.faults.examine`: its queries, the night screened again, a
later night, a retraction. A flip is *named* where one of them fails or warns and says which file,
*harmless* where all of them tell and make the same as without it; else *unnamed* where they fail
and do not say which file, or *silent*. The aim is none of the last two. What `slidewatch verify`
names is counted beside.
"""

import random
import re
import shutil
from pathlib import Path

import pytest

from tests.support.faults.counts import Counts
from tests.support.faults.runs import Ended, Run, files_of
from tests.support.faults.trials import Bench

FLIPS = 4  # of each kind of file
KINDS = {
    "weights": r"models/tiny/model\.safetensors",
    "model card": r"models/tiny/card\.json",
    "statistics": r"statistics/tiny/v0001/moments\.safetensors",
    "lineage": r"statistics/tiny/v0001/lineage\.json",
    "detector": r"detectors/.*/detector\.safetensors",
    "detector card": r"detectors/.*/card\.json",
    "learned night": r"learned/.*safetensors",
    "fitted batch": r"batches/first/batch\.json",
    "fitted manifest": r"batches/first/manifest\.parquet",
    "fitted ledger": r"batches/first/ledger/.*",
    "fitted chunk": r"features/tiny/first\.zarr/.*/c\..*",
    "fitted zarr metadata": r"features/tiny/first\.zarr/.*zarr\.json",
    "night's batch": r"batches/night/batch\.json",
    "night's manifest": r"batches/night/manifest\.parquet",
    "night's ledger": r"batches/night/ledger/.*",
    "night's chunk": r"features/tiny/night\.zarr/.*/c\..*",
    "night's zarr metadata": r"features/tiny/night\.zarr/.*zarr\.json",
    "screening": r"batches/night/screenings/.*",
    "seal": r"batches/night/sealed/.*",
    "announcement": r"batches/night/announced/.*",
    "images": r"reports/images/.*",
    "slides": r"reports/slides/.*",
    "batches": r"reports/batches/.*",
    "segmentation": r"segmentations/.*/segmentation\.json",
    "segmented": r"segmentations/.*/segmented\.json",
    "segmentation's tables": r"segmentations/.*\.parquet",
    "page": r"reports/html/night\.html",
}


@pytest.fixture(scope="module")
def full(bench: Bench) -> Path:
    """A store with a bit of everything in it."""
    bench.reset()
    for run in (bench.screening, bench.segmenting):
        assert bench.runs.run(run).code == 0
    kept = bench.folder / "full"
    shutil.copytree(bench.runs.store, kept)
    return kept


def look(bench: Bench, full: Path, name: str = "", byte: int = 0, bit: int = 0) -> Ended:
    """Look at a copy of a store in which a bit of a byte of a file is flipped, if one is named."""
    bench.runs.reset(full)
    if name:
        path = Path(bench.runs.store, name)
        content = bytearray(path.read_bytes())
        content[byte] ^= 1 << bit
        path.unlink()  # a link to the file that is kept
        path.write_bytes(content)
    images = {"night": str(bench.folder / "night"), "later": str(bench.folder / "more")}
    ended = bench.runs.run(Run("examine", {**images, "whole": files_of(full)}), cold=True)
    assert ended.code == 0, ended.text
    return ended


def flips(full: Path, kind: str) -> list[tuple[str, int, int]]:
    rng = random.Random(kind)
    names = [str(path.relative_to(full)) for path in sorted(full.rglob("*")) if path.is_file()]
    names = [name for name in names if re.fullmatch(KINDS[kind], name)]
    chosen = [rng.choice(names) for _ in range(FLIPS if names else 0)]
    return [
        (name, rng.randrange((full / name).stat().st_size), rng.randrange(8)) for name in chosen
    ]


def judge(calm: Ended, ended: Ended, name: str) -> tuple[str, str]:
    """Say whether a flip was named, harmless or silent, and where it was noticed or not."""
    before, after = calm.outcome or {}, ended.outcome or {}
    differing = [each for each in before if each != "verify" and before[each] != after[each]]
    errors = [after[each] for each in differing if after[each].startswith("error: ")]
    told = "\n".join([*errors, ended.text])
    # Chunks and their metadata are named by their group, and some records by what is beside them.
    names = (name, f"{name.split('.zarr')[0]}.zarr", name.rpartition("/")[0])
    if any(part in told for part in names):
        return "named", ""
    if not differing:
        return "harmless", ""
    where = f"{', '.join(differing)}: {' '.join(errors)[:200]}"
    return ("unnamed" if len(errors) == len(differing) else "silent"), where


@pytest.mark.slow
def test_a_flipped_bit_is_named_or_harmless(bench: Bench, full: Path) -> None:
    counts, calm = Counts("bits flipped"), look(bench, full)
    assert not (calm.outcome or {})["verify"]
    for kind in KINDS:
        for flip in flips(full, kind):
            ended = look(bench, full, *flip)
            found, where = judge(calm, ended, flip[0])
            wrong = [found] if found in ("unnamed", "silent") else []
            counts.add(kind, f"{flip} {where}", *wrong)
            counts.note(kind, found, not wrong)
            counts.note(kind, "by verify", bool((ended.outcome or {})["verify"]))
    counts.check()
