"""Faults under a laboratory: commissioned, and a night taken out.

As `test_crashes`, on a store with a laboratory of two nights: the same command leaves the same
bytes.
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
def test_a_laboratory_is_the_same_wherever_its_run_and_the_recovery_die(
    commissioned: Bench, flow: str
) -> None:
    counts, run, rng = Counts(f"{flow}, dying"), getattr(commissioned, flow), random.Random(flow)
    points = commissioned.calm(run).points()
    calls = commissioned.calm(run).ended.calls
    of_laboratory = [
        n for n in points if {"learned", "detectors"} & set(calls[n - 1].split("/")[1:2])
    ]
    assert of_laboratory
    # Extraction and reports die everywhere in `test_crashes`.
    for number, point in enumerate(of_laboratory):
        kind = f"before a change of the laboratory ({len(of_laboratory)} of {len(points)})"
        count(commissioned, run, counts, kind, Fault("die", point))
        if number % EVERY == 0:
            faults = (Fault("die", point), Fault("die", rng.choice(points)))
            count(commissioned, run, counts, f"twice (one of {EVERY})", *faults)
    counts.check()
