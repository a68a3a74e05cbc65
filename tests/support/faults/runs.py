"""Runs of flows on a store of their own, each in a process that may die; and stores compared."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.faults.calls import NO_FAULT, Fault
from tests.support.paths import ROOT

PATIENCE = 120.0  # seconds after which a run of a fraction of a second counts as hung
Files = dict[str, str]  # digests by path


@dataclass(frozen=True)
class Ended:
    """The end of a run.

    ``calls`` are its changes of files, in order; ``kept`` the digests of files of which the store
    said that they are written, and which nobody was about to change when it ended.
    """

    code: int
    calls: list[str]
    kept: Files
    error: str | None
    outcome: dict[str, Any] | None
    told: list[str]
    text: str

    @property
    def hung(self) -> bool:
        return self.code == HUNG

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.text


HUNG = -1000


@dataclass
class Run:
    """A flow to run, and with which options."""

    action: str
    options: dict[str, Any]


@dataclass
class Runs:
    """Starts runs on the store in ``root``; ``scratch`` lies elsewhere and is never faulted."""

    process: subprocess.Popen[str]
    scratch: Path
    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> str:
        return str(self.root / "store")

    def warm(self) -> None:
        """Load the model of the store once for all runs."""
        self._ask({"warm": self.settings.get("store", self.store)})

    def start(
        self,
        run: Run,
        fault: Fault = NO_FAULT,
        *,
        cold: bool = False,
        lifetime: float | None = None,
        clock: Sequence[float] = (),
    ) -> "Started":
        """Start a run; ``cold`` reads its model anew; see `standins.stand_in` for the others."""
        name = self.scratch / uuid4().hex
        files = {kind: f"{name}.{kind}" for kind in ("notes", "out", "told")}
        settings = {"store": self.store, "shard_rows": 8, "alpha": 0.2} | self.settings
        asked = {
            "action": run.action, "options": run.options, "settings": settings, "cold": cold,
            "root": str(self.root), "fault": asdict(fault), "lifetime": lifetime,
            "clock": list(clock), "environment": self.environment, **files,
        }  # fmt: skip
        return Started(self, self._ask({"start": asked})["pid"], files)

    def run(self, run: Run, fault: Fault = NO_FAULT, **options: Any) -> Ended:
        """Run a flow to its end, whatever that is."""
        return self.start(run, fault, **options).wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that runs are forked from is gone"
        found: dict[str, Any] = json.loads(answer)
        return found

    def reset(self, template: Path) -> None:
        """Put a copy of another store in the place of this one."""
        shutil.rmtree(self.store, ignore_errors=True)
        here = template.stat().st_dev == self.root.stat().st_dev
        # Nothing in a store is ever changed in its place, so a link is a copy.
        shutil.copytree(template, self.store, copy_function=os.link if here else shutil.copy)


@dataclass(frozen=True)
class Started:
    """A run that has been started."""

    runs: Runs
    pid: int
    files: dict[str, str]

    def state(self, seconds: float = PATIENCE, *, kill: bool = False) -> tuple[str, int]:
        """Wait until it has ended or stopped, and say which, and its exit code."""
        asked = {"wait": self.pid, "seconds": seconds, "kill": kill}
        answer = self.runs._ask(asked)
        return answer["state"], answer.get("code", HUNG)

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """Wait for the end; a run that does not end is killed."""
        _, code = self.state(seconds, kill=True)
        calls, kept, said = _notes(Path(self.files["notes"]))
        told, out = (Path(self.files[kind]) for kind in ("told", "out"))
        ended = Ended(
            code=code, calls=calls, kept=kept, error=said.get("error"),
            outcome=said.get("outcome"), text=out.read_text() if out.exists() else "",
            told=told.read_text().splitlines() if told.exists() else [],
        )  # fmt: skip
        for file in self.files.values():
            Path(file).unlink(missing_ok=True)
        return ended


def _notes(file: Path) -> tuple[list[str], Files, dict[str, Any]]:
    calls: list[str] = []
    kept: Files = {}
    said: dict[str, Any] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        kind, _, rest = line.partition(" ")
        if kind == "call":
            calls.append(rest)
        elif kind == "fault":
            calls.pop()
        elif kind == "kept":
            digest, _, path = rest.partition(" ")
            kept[path] = digest
        elif kind == "changing":
            for path in [path for path in kept if f"{path}/".startswith(f"{rest}/")]:
                del kept[path]
        elif kind == "end":
            said = json.loads(rest)
    return calls, kept, said


@contextmanager
def forking(scratch: Path, root: Path, **settings: Any) -> Iterator[Runs]:
    """Start the process that runs are forked from."""
    for folder in (scratch, root):
        folder.mkdir(parents=True, exist_ok=True)
    with (
        (scratch / "zygote.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.faults.zygote"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        runs = Runs(process, scratch, root, settings)
        assert process.stdout
        assert process.stdout.readline(), (scratch / "zygote.log").read_text()
        yield runs
        process.stdin.close()  # type: ignore[union-attr]


def files_of(store: str | Path) -> Files:
    """Digest every file of a store that a later run may read.

    Left out are leases, which name processes and times, how often a shard was tried, and what died
    before it had its name: staged files and zarr's.
    """
    found: Files = {}
    for path in sorted(Path(store).rglob("*")):
        name = path.relative_to(store)
        dead = name.parts[0] == ".staged" or path.suffix == ".partial"
        if path.is_file() and "lease" not in name.parts and not dead:
            content = path.read_bytes()
            if "ledger" in name.parts:
                content = re.sub(rb'"tries": \d+', b"", content)
            found[str(name)] = sha256(content).hexdigest()
    return found


def differing(some: Files, others: Files) -> list[str]:
    """List the files that only one has, or that differ."""
    return sorted(
        name for name in some.keys() | others.keys() if some.get(name) != others.get(name)
    )
