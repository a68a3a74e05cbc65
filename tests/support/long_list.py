"""List, recognise and freeze a night, and plan its scoring; print the MiB that it took at most.

``python -m tests.support.long_list STORE IMAGES``, in a process of its own.
"""

import sys
from contextlib import ExitStack
from datetime import date
from pathlib import Path

from flows.jobs.scoring.plan import plan_parts
from flows.jobs.worker import return_freed_memory
from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.stages.sorting import take
from flows.stages.batch import GivenImages, start_or_resume
from storage.store import Store
from tests.support.models import CLASSES
from tests.support.peak import peak, start_peak

LINKS = 50_000  # names of one file; a filesystem allows 65,000
A_PATIENT, A_SLIDE, A_FIELD = 1_000, 500, 100  # images


def folder_of(image: Path, number: int, to: Path) -> Path:
    """Give an image many names, as the NIH gives them, a thousand to the folder of a patient."""
    source = image
    for i in range(number):
        patient, field = i // A_PATIENT, i // A_FIELD
        folder = to / f"C{patient}"
        if i % A_PATIENT == 0:
            folder.mkdir(parents=True)
        when = f"2026010{1 + i // A_SLIDE % 2}_{field % 24:02}{field % 60:02}00"
        name = folder / f"C{patient}P{patient}thinF_IMG_{when}_cell_{i}.png"
        if i % LINKS == 0:
            source = name
            source.write_bytes(image.read_bytes())
        else:
            name.hardlink_to(source)
    return to


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
