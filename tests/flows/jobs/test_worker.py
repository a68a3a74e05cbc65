import ctypes

import pytest

from tests.support.needs import needs
from tests.support.processes import python

COUNT_FAULTS = """
import resource, sys
import torch
from flows.jobs.worker import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
def work():
    for _ in range(20):
        torch.ones(1_000_000).add(1.0)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    # As Dask starts its workers.
    ran = python("-c", COUNT_FAULTS, how, env={"MALLOC_TRIM_THRESHOLD_": "65536"})
    return int(ran.stdout)


@pytest.mark.slow
@needs("glibc", hasattr(ctypes.CDLL(None), "mallopt"), "this is another allocator")
def test_freed_memory_is_used_again_and_not_asked_for_anew() -> None:
    assert page_faults("kept") < page_faults("as it is") / 10
