import errno
from concurrent.futures import CancelledError

import pytest
from distributed import KilledWorker
from distributed.comm.core import CommClosedError

from flows.cluster.trials import ClusterError, Trials
from flows.jobs.libraries import VersionsDifferError
from storage.store import StoreError

DEATH = KilledWorker("job", None, 0)


def test_passing_storage_errors_have_longer_and_longer_pauses() -> None:
    trials, error = Trials(), ConnectionResetError("storage hung up")
    assert [trials.pause_after(error) for _ in range(3)] == [1, 4, 16]
    with pytest.raises(ClusterError, match="ConnectionResetError: storage hung up"):
        trials.pause_after(error)


def test_errors_and_deaths_are_counted_apart() -> None:
    trials = Trials()
    for _ in range(3):
        trials.pause_after(DEATH)
        trials.pause_after(TimeoutError())
    assert trials == Trials(deaths=3, errors=3)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (CancelledError(), "scheduler is lost"),
        (CommClosedError("in <TCP>"), "scheduler is lost"),
        (VersionsDifferError("torch is 2 here"), "torch is 2 here: install the same versions"),
        (ClusterError("the cluster has no workers left"), "^the cluster has no workers left$"),
        (StoreError("card.json does not exist"), "^card.json does not exist$"),
        (ValueError("a mistake of ours"), "ValueError: a mistake of ours"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(error: Exception, says: str) -> None:
    trials = Trials()
    with pytest.raises(ClusterError, match=says) as raised:
        trials.pause_after(error)
    assert raised.value.__cause__ is error
    assert trials == Trials()
