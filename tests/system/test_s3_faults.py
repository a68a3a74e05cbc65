"""An S3 server that answers late, twice, wrong, by half or not at all, at the calls of a night.

The client is the one that slidewatch uses, and the faults are on the wire. A night ends right, or
fails with one sentence, and the same command then leaves the same bytes.
"""

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from storage.store import AlreadyExistsError, Store
from tests.support import far_s3
from tests.support.faults.calls import NO_FAULT, Fault
from tests.support.faults.counts import Counts
from tests.support.faults.runs import Ended, Run, Runs
from tests.support.faults.trials import Bench, count

FLOWS = ("screening", "fitting", "retracting", "segmenting")
OF_OBJECTS = ("half", "wrong")  # the client cannot know, and only reads may go wrong so
PLACES = 3  # of all calls of a verb, tried with each kind of fault
STORM = 25  # calls, of which one goes wrong
TRIES = {"AWS_MAX_ATTEMPTS": "2"}  # of the client, so that it gives up soon


@dataclass
class FarRuns(Runs):
    """Runs whose store is on an S3 server; calls and faults are of the server's requests.

    Of a fault's ``times`` calls every n-th goes wrong, by its ``kind``s in turn.
    """

    every: int = 1

    def run(self, run: Run, fault: Fault = NO_FAULT, **options: object) -> Ended:
        far_s3.requests()
        kinds = fault.kind.split(", ") if fault.at else []
        far_s3.next_fault(kinds, fault.at, fault.times, self.every)
        ended = super().run(run, **options)  # type: ignore[arg-type]
        far_s3.next_fault([], 0)
        return replace(ended, calls=[f"{verb} {key}" for verb, key in far_s3.requests()])


@pytest.fixture(scope="module")
def far(bench: Bench) -> Iterator[Bench]:
    """The bench with its store on an S3 server."""
    root = bench.folder / "far"
    root.mkdir()
    with far_s3.far_s3(0, root) as url:
        known = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        settings = bench.runs.settings | {"store": f"{url}/store"}
        runs = FarRuns(bench.runs.process, bench.runs.scratch, root, settings, known | TRIES)
        yield Bench(runs, bench.folder, bench.template)


def attempt(far: Bench, run: Run, counts: Counts, fault: Fault) -> None:
    """Try a fault, and see that what is said of it is one sentence."""
    first, *_ = count(far, run, counts, fault.kind, fault)
    counts.note(fault.kind, "went on", first.code == 0)
    if first.code and not (first.error and "\n" not in first.error and not first.traceback):
        counts.add("message", f"{fault.kind} at {fault.at}: {first.error}", "unclear")


@pytest.mark.slow
def test_a_night_on_s3_survives_a_storm(far: Bench) -> None:
    counts = Counts(f"a night on S3 of which every {STORM}th call goes wrong")
    kinds = ", ".join(kind for kind in far_s3.FAULTS if kind not in OF_OBJECTS)
    assert isinstance(far.runs, FarRuns)
    far.runs.every = STORM
    attempt(far, far.screening, counts, Fault(kinds, STORM, times=10_000))
    far.runs.every = 1
    counts.check()


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("kind", far_s3.FAULTS)
@pytest.mark.parametrize("times", [1, 10_000])
def test_a_run_on_s3_survives_a_fault_at_any_call(
    far: Bench, flow: str, kind: str, times: int
) -> None:
    counts, run = Counts(f"{flow} on S3, {times} times {far_s3.FAULTS[kind]}"), getattr(far, flow)
    rng, points = random.Random(kind), defaultdict[str, list[int]](list)
    for number, call in enumerate(far.calm(run).ended.calls, 1):
        points[call.partition(" ")[0]].append(number)
    for verb in ["GET"] if kind in OF_OBJECTS else sorted(points):
        places = PLACES if times == 1 else 1
        for at in sorted(rng.sample(points[verb], min(places, len(points[verb])))):
            attempt(far, run, counts, Fault(kind, at, times=times))
    counts.check()


@pytest.mark.slow
def test_every_write_of_a_night_may_lose_its_answer(far: Bench) -> None:
    counts, calls = Counts("answers lost to every PUT"), far.calm(far.screening).ended.calls
    for at in [number for number, call in enumerate(calls, 1) if call.startswith("PUT ")]:
        attempt(far, far.screening, counts, Fault("lost", at))
    assert counts.rows["lost"]["went on"] == counts.rows["lost"]["tried"]
    counts.check()


def test_a_create_whose_answer_is_lost_is_ones_own_and_one_that_is_refused_is_not(
    tmp_path: Path,
) -> None:
    """The client tries again by itself, and is told that there is an object: its own."""
    with far_s3.far_s3(0, tmp_path) as url:
        store = Store(f"{url}/store")
        store.write_bytes(b"any", "other", once=True)
        put = [verb for verb, _ in far_s3.requests()].index("PUT") + 1
        far_s3.next_fault(["lost"], put)
        store.write_bytes(b"ours", "record", once=True)
        assert [verb for verb, _ in far_s3.requests()].count("PUT") == 2
        with pytest.raises(AlreadyExistsError):
            store.write_bytes(b"ours", "record", once=True)
        assert store.read_bytes("record") == b"ours"
