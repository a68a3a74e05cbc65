"""List, recognise and freeze a night, and plan its scoring; print the MiB that it took at most.

``python -m tests.support.long_list STORE IMAGES``, in a process of its own.
"""

import sys
from contextlib import ExitStack
from datetime import date

from flows.jobs.scoring.plan import plan_parts
from flows.jobs.worker import return_freed_memory
from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.stages.sorting import take
from flows.stages.batch import GivenImages, start_or_resume
from storage.store import Store
from tests.support.models import CLASSES
from tests.support.peak import peak, start_peak

if __name__ == "__main__":
    url, images = sys.argv[1:]
    store, settings, classes = Store(url), Settings(store=url), list(CLASSES)
    wanted = Screen(images=images, batch="night")
    return_freed_memory()
    before = start_peak()
    with ExitStack() as stack:
        taken = take(store, settings, wanted, None, classes, stack)
    batch = start_or_resume(
        store, settings, "night", GivenImages(images, listed=taken.listed), classes,
        batch_date=date(2026, 1, 3),
    )  # fmt: skip
    plan_parts(store, batch, by_slide=True)
    print(peak() - before)
