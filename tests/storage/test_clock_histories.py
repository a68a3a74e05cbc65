"""Two machines that work on one batch, with clocks that are apart, jump and go back, at random.

Each history is compared with a model that knows the true time. Clocks decide when a lease is taken
over, and never who may write; whoever waits for a dead holder gets its lease in a lifetime.
"""

import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import ClassVar
from unittest import mock
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from storage import leases
from storage.leases import BEAT, LIFETIME, HeldByOtherError, Lease, LeaseLostError, lease
from storage.store import Store, StoreError
from tests.support.faults import objects

NIGHT = ("batches", "night")
NEVER = 1e6
HOUR = 3600.0
START = datetime(2026, 1, 3, 22, tzinfo=UTC)
PROTOCOLS = ("", f"{objects.PROTOCOL}://")  # a disk, and an object store

machines = st.sampled_from([0, 1])


@dataclass
class Holding:
    """A run that has taken the lease, and the true time at which it last renewed it."""

    block: AbstractContextManager[Lease]
    held: Lease
    renewed: float


class Machines(RuleBasedStateMachine):
    """A batch of which at most one run per machine has taken the lease."""

    protocol: ClassVar[str]
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.counted["histories"] += 1
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(f"{self.protocol}{self.folder.name}/store")
        self.true, self.here = 0.0, 0
        self.wrong = [0.0, 0.0]
        self.runs: list[Holding | None] = [None, None]
        self.writer: Holding | None = None
        self.content: str | None = None
        self.dead: list[Holding] = []  # kept, because a block that is forgotten releases its lease
        me = leases._this_process()

        def this_process() -> leases.Holder:
            own = {"owner": uuid4().hex, "processes": f"boot {self.here}"}
            return me.model_copy(update=own)

        fakes = {
            "_now": lambda: START + timedelta(seconds=self.true + self.wrong[self.here]),
            "time": SimpleNamespace(monotonic=lambda: self.true, sleep=self.passes, time=time.time),
            "_keep_alive": lambda *_: None,  # hearts beat by `renews` alone
            "pid_space": lambda: f"boot {self.here}",
            "_this_process": this_process,
        }
        self.patch = mock.patch.multiple(leases, **fakes)
        self.patch.start()

    def teardown(self) -> None:
        for each in (*self.runs, *self.dead):
            if each:
                each.block.__exit__(None, None, None)
        self.patch.stop()
        self.folder.cleanup()

    @rule(seconds=st.sampled_from([1.0, BEAT, LIFETIME - 1, LIFETIME, HOUR]))
    def passes(self, seconds: float) -> None:
        self.true += seconds

    @rule(machine=machines, seconds=st.sampled_from([-HOUR, -LIFETIME, 0.0, LIFETIME, HOUR]))
    def sets_its_clock(self, machine: int, seconds: float) -> None:
        self.wrong[machine] = seconds
        self.counted["clocks set"] += 1

    @rule(machine=machines, wait=st.booleans())
    def takes(self, machine: int, wait: bool) -> None:
        self.here = machine
        if self.runs[machine]:
            return
        before, began = self.writer, self.true
        if before and before in self.runs and wait:  # it would renew for ever
            return
        block = lease(self.store, *NIGHT, beat=NEVER, wait=wait, poll=BEAT)
        try:
            held = block.__enter__()
        except HeldByOtherError:
            assert before
            self.counted["refused"] += 1
            return
        if self.true > began:
            self.counted["waited"] += 1
            assert self.true - began <= LIFETIME + 2 * BEAT
        self.counted["taken"] += 1
        self.writer = self.runs[machine] = Holding(block, held, self.true)

    @rule(machine=machines)
    def renews(self, machine: int) -> None:
        self.here = machine
        run = self.runs[machine]
        if run and self._may(run, run.held.renew):
            run.renewed = self.true

    @rule(machine=machines)
    def writes(self, machine: int) -> None:
        self.here = machine
        run = self.runs[machine]
        if run is None:
            return
        text = f"{machine} {self.counted['written']}"
        if self._may(run, lambda: run.held.store.write_bytes(text.encode(), "batches", "a")):
            self.content = text
            self.counted["written"] += 1
        kept = self.store.read_bytes("batches", "a").decode() if self.content else None
        assert kept == self.content

    def _may(self, run: Holding, do: object) -> bool:
        """Do something that only a holder may, and say if it was done."""
        try:
            do()  # type: ignore[operator]
        except (LeaseLostError, StoreError):
            self.counted["lost"] += 1
            assert run is not self.writer or self.true - run.renewed >= LIFETIME
            return False
        assert run is self.writer
        return True

    @precondition(lambda self: any(self.runs))
    @rule(machine=machines, dies=st.booleans())
    def ends(self, machine: int, dies: bool) -> None:
        self.here = machine
        run = self.runs[machine]
        if run is None:
            return
        self.runs[machine] = None
        if dies:
            self.dead.append(run)
            self.counted["died"] += 1
        else:
            run.block.__exit__(None, None, None)
            self.writer = None if self.writer is run else self.writer


@pytest.mark.parametrize("examples", [8, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_histories_of_two_machines(protocol: str, examples: int) -> None:
    counted: Counter[str] = Counter()
    machine = type("Machine", (Machines,), {"protocol": protocol, "counted": counted})
    options = settings(max_examples=examples, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(machine, settings=options)
    print("\n" + ", ".join(f"{count:,} {name}" for name, count in counted.items()))
