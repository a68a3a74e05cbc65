"""Faults under a site: commissioned, and a night taken out.

As `test_crashes`, on a store with a site of two nights: the same command leaves the same bytes.
"""

import random

import pytest

from tests.support.faults.calls import Fault
from tests.support.faults.counts import Counts
from tests.support.faults.trials import Bench, count

FLOWS = ("withdrawing", "commissioning")
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
