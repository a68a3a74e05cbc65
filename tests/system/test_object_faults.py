"""A faulting object store under a night, a fit and a segmentation: every verb, once and for long.

A run ends with a line or goes on; the same command then leaves the same bytes. A create-only PUT
whose answer was lost is one's own and nobody else's.
"""

import random
from pathlib import Path

import pytest

from storage.store import AlreadyExistsError, Store
from tests.support.faults import objects, runs, trials
from tests.support.faults.calls import Fault
from tests.support.faults.counts import Counts
from tests.support.servers import LOST_ANSWERS

VERBS = ("get", "put", "create", "list", "info", "remove")
KINDS = ("fail", "lost answer", "cut", "slow")
PLACES = 3  # of all requests of a verb, tried with each kind of fault
FLOWS = ("screening", "fitting", "retracting", "segmenting")


@pytest.fixture(scope="module")
def remote(bench: trials.Bench) -> trials.Bench:
    """The bench on an object store."""
    root = bench.folder / "objects"
    root.mkdir()
    settings = bench.runs.settings | {"store": f"{objects.PROTOCOL}://{root}/store"}
    return bench.on(runs.Runs(bench.runs.process, bench.runs.scratch, root, settings))


def requests(bench: trials.Bench, flow: str, verb: str) -> int:
    calls = bench.calm(getattr(bench, flow)).ended.calls
    return sum(call.startswith(f"{verb} ") for call in calls)


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("times", [1, 10_000])
def test_a_faulting_object_store_ends_a_run_with_a_line_or_changes_nothing(
    remote: trials.Bench, flow: str, times: int
) -> None:
    counts, rng = Counts(f"{flow}, faults {times} times"), random.Random(flow)
    for verb in VERBS:
        total = requests(remote, flow, verb)
        for kind in KINDS if times == 1 else ("fail", "lost answer"):
            for at in sorted(rng.sample(range(1, total + 1), min(PLACES, total))):
                row = f"{verb}: {kind} ({min(PLACES, total)} of {total})"
                fault = Fault(kind, at, times=times, verb=verb)
                ends = trials.count(remote, getattr(remote, flow), counts, row, fault)
                counts.note(row, "went on", ends[0].code == 0)
                error = ends[0].error
                if ends[0].code and not (error and "\n" not in error and "/store" in error):
                    counts.add("message", f"{row}: {error}", "unclear")
    counts.check()


def test_a_create_whose_answer_is_lost_is_ones_own_and_one_that_is_refused_is_not(
    s3_bucket: str, tmp_path: Path
) -> None:
    """The client tries again by itself, and is told that there is an object: its own."""
    store = Store(f"{s3_bucket}/{tmp_path.name}")
    LOST_ANSWERS.add(f"/slidewatch/{tmp_path.name}/record")
    store.write_bytes(b"ours", "record", once=True)
    assert not LOST_ANSWERS
    with pytest.raises(AlreadyExistsError):
        store.write_bytes(b"ours", "record", once=True)
    assert store.read_bytes("record") == b"ours"


@pytest.mark.slow
def test_every_create_of_a_night_may_lose_its_answer(remote: trials.Bench) -> None:
    counts = Counts("answers lost to every create-only PUT")
    for at in range(1, requests(remote, "screening", "create") + 1):
        fault = Fault("lost answer", at, verb="create")
        ends = trials.count(remote, remote.screening, counts, "screening", fault)
        assert ends[0].code == 0, ends[0].error
    counts.check()
