"""Faults under a site: commissioned, decided on after a screening, a night taken out.

As `test_crashes`, on a store with a site of two nights: the same command leaves the same bytes.
"""

import random

import pytest

from tests.support.faults.calls import Fault
from tests.support.faults.counts import Counts
from tests.support.faults.objects import PROTOCOL
from tests.support.faults.runs import Runs
from tests.support.faults.trials import Bench, count

FLOWS = ("withdrawing", "learning", "commissioning")
VERBS, PLACES = ("get", "put", "create", "list", "remove"), 2
EVERY = 3  # of these points the recovery dies, too


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
def test_a_site_is_the_same_wherever_its_run_and_the_recovery_die(sited: Bench, flow: str) -> None:
    counts, run, rng = Counts(f"{flow}, dying"), getattr(sited, flow), random.Random(flow)
    points = sited.calm(run).points()
    of_site = [n for n in points if "store/sites/" in sited.calm(run).ended.calls[n - 1]]
    assert of_site
    # Extraction and reports die everywhere in `test_crashes`.
    for number, point in enumerate(of_site):
        kind = f"before a change of the site ({len(of_site)} of {len(points)})"
        count(sited, run, counts, kind, Fault("die", point))
        if number % EVERY == 0:
            faults = (Fault("die", point), Fault("die", rng.choice(points)))
            count(sited, run, counts, f"twice (one of {EVERY})", *faults)
    counts.check()


EXCHANGES = {"receiving": "given", "merging": "given", "parting": "visited"}


@pytest.mark.slow
@pytest.mark.parametrize("flow", EXCHANGES)
@pytest.mark.parametrize("where", ["disk", "objects"])
def test_an_exchange_is_whole_wherever_its_run_and_the_recovery_die(
    request: pytest.FixtureRequest, flow: str, where: str
) -> None:
    bench: Bench = request.getfixturevalue(EXCHANGES[flow])
    counts, rng = Counts(f"{flow} on {where}"), random.Random(flow)
    if where == "objects":
        bench = _on_objects(bench, flow)
        for verb in VERBS:
            calls = bench.calm(getattr(bench, flow)).ended.calls
            total = sum(call.startswith(f"{verb} ") for call in calls)
            for kind in ("fail", "lost answer", "cut"):
                for at in rng.sample(range(1, total + 1), min(PLACES, total)):
                    fault = Fault(kind, at, verb=verb)
                    count(bench, getattr(bench, flow), counts, f"{verb}: {kind}", fault)
        counts.check()
        return
    points = bench.calm(getattr(bench, flow)).points()
    for number, point in enumerate(points):
        count(bench, getattr(bench, flow), counts, f"{len(points)} points", Fault("die", point))
        if number % EVERY == 0:
            faults = (Fault("die", point), Fault("die", rng.choice(points)))
            count(bench, getattr(bench, flow), counts, f"twice (one of {EVERY})", *faults)
    counts.check()


def _on_objects(bench: Bench, flow: str) -> Bench:
    root = bench.folder / f"objects-{flow}"
    root.mkdir()
    settings = bench.runs.settings | {"store": f"{PROTOCOL}://{root}/store"}
    return bench.on(Runs(bench.runs.process, bench.runs.scratch, root, settings))
