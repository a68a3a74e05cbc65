"""Trials: a run that ends badly, perhaps again in its recovery, and at last one that must not."""

from dataclasses import dataclass, field
from pathlib import Path

from storage.store import digest_of
from tests.support.faults.calls import NO_FAULT, Fault
from tests.support.faults.counts import Counts
from tests.support.faults.runs import Ended, Files, Run, Runs, differing, files_of

LABORATORY = "there"
# What no one reads before it has its name, so that dying there leaves nothing to recover from.
_UNSEEN = ("fsync", "open")
_DONE_BEFORE = (
    "is not in statistics", f"is not in {LABORATORY}-v",
)  # fmt: skip


@dataclass(frozen=True)
class Calm:
    """The calls of an undisturbed run, the files before it and that it leaves, and its end."""

    ended: Ended
    before: Files
    files: Files

    def points(self) -> list[int]:
        """The calls, from 1, before which a store differs from what it was before the last one."""
        seen: set[str] = set()
        found = []
        for number, call in enumerate(self.ended.calls, 1):
            what, _, path = call.partition(" ")
            staged = path.startswith("store/.staged") or path.endswith(".partial")
            if what in _UNSEEN or staged or (what == "mkdir" and path in seen):
                continue
            seen.add(path)
            found.append(number)
        return found


@dataclass(frozen=True)
class Bench:
    """The place of trials: sources of images, and a store to copy before each."""

    runs: Runs
    folder: Path
    template: Path
    _calm: dict[str, Calm] = field(default_factory=dict)

    @property
    def screening(self) -> Run:
        return Run("screen", {"images": str(self.folder / "night"), "batch": "night"})

    @property
    def fitting(self) -> Run:
        return Run("fit", {"images": str(self.folder / "more"), "batch": "more"})

    @property
    def retracting(self) -> Run:
        return Run("retract", {"patient": "C120P20"})

    @property
    def commissioning(self) -> Run:
        options = {"images": str(self.folder / "night"), "laboratory": LABORATORY, "batch": "night"}
        return Run("commission", options)

    @property
    def withdrawing(self) -> Run:
        return Run("unlearn", {"laboratory": LABORATORY, "batch": "more"})

    @property
    def segmenting(self) -> Run:
        return Run("segment", {"images": str(self.folder / "fields"), "name": "fields"})

    def reset(self) -> None:
        """Put a copy of the template in the place of the store."""
        self.runs.reset(self.template)

    def restore(self) -> None:
        """Bring back what a fault took away; on this bench it takes nothing."""

    def calm(self, run: Run) -> Calm:
        """Run on a copy of the template with no fault, once for all trials."""
        if (key := repr(run)) not in self._calm:
            self.reset()
            before = files_of(self.runs.store)
            ended = self.runs.run(run)
            assert ended.code == 0, (ended.error, ended.text)
            self._calm[key] = Calm(ended, before, files_of(self.runs.store))
        return self._calm[key]


def lost(store: str | Path, kept: Files) -> list[str]:
    """List the files that the store has said are written, and that are not there as written."""
    return [
        path
        for path, digest in kept.items()
        if not (file := Path(store, path)).is_file() or digest_of(file.read_bytes()) != digest
    ]


def torn(store: str, calm: Calm) -> list[str]:
    """List the reports that are neither those before the run nor those of an undisturbed one."""
    return [
        name
        for name, digest in files_of(store).items()
        if name.startswith("reports/") and not name.endswith("index.html")
        if digest not in (calm.before.get(name), calm.files.get(name))
    ]


def judge(bench: Bench, run: Run, last: Ended) -> list[str]:
    """Say in which columns the end of a recovery differs from an undisturbed run."""
    calm = bench.calm(run)
    if last.hung:
        return ["hung"]
    same = not differing(files_of(bench.runs.store), calm.files)
    # A retraction of which all but the last word was done is told that it is done.
    done_before = same and any(words in str(last.error) for words in _DONE_BEFORE)
    if last.code != calm.ended.code and not done_before:
        return ["lost"]
    return [] if same else ["mixed"]


def tried(bench: Bench, run: Run, *faults: Fault) -> tuple[list[str], list[Ended]]:
    """Run with each fault in turn on one store and then with none; say what was not survived."""
    calm = bench.calm(run)
    bench.reset()
    found: list[str] = []
    ends = []
    for fault in (*faults, NO_FAULT):
        ended = bench.runs.run(run, fault)
        ends.append(ended)
        if ended.hung:
            return ["hung"], ends
        bench.restore()
        if lost(bench.runs.store, ended.kept):
            found.append("lost")
        if torn(bench.runs.store, calm):
            found.append("mixed")
    for number, ended in enumerate(ends):
        kept = {path for path in ended.kept if "/ledger/" in path}
        if kept & {path for later in ends[number + 1 :] for path in later.kept}:
            found.append("doubled")
    return sorted({*found, *judge(bench, run, ends[-1])}), ends


def count(bench: Bench, run: Run, counts: Counts, kind: str, *faults: Fault) -> list[Ended]:
    """Try faults in a row, and count what came of them."""
    found, ends = tried(bench, run, *faults)
    where = "; ".join(_place(bench.calm(run), fault) for fault in faults)
    left = differing(files_of(bench.runs.store), bench.calm(run).files) if "mixed" in found else []
    where += f" {' '.join(left)} {ends[-1].error or ''}".rstrip()
    counts.add(kind, where, *found)
    counts.note(kind, "told twice", sum(len(ended.told) for ended in ends) > 1)
    return ends


def _place(calm: Calm, fault: Fault) -> str:
    """Say which call of an undisturbed run a fault is about."""
    calls = calm.ended.calls
    call = calls[fault.at - 1] if 0 < fault.at <= len(calls) else "none"
    return f"{fault.kind} at {fault.at} ({call})"
