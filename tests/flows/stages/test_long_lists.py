"""A night's list of images is never in memory as a whole."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from pathlib import Path

from PIL import Image

from flows.jobs.scoring.plan import plan_parts
from flows.jobs.worker import return_freed_memory
from flows.settings import Settings
from flows.stages.batch import start_or_resume
from flows.stages.sources.sorting import Wanted, take
from storage.store import Store
from tests.support.made_up_night import folder_of
from tests.support.models import CLASSES
from tests.support.peak import extra_peak

FEW, MANY = 6_000, 36_000
LIST_OF_TEXT = 0.2 / 1024  # MiB an image at least, if there were a list of their URLs


def listing(store: str, images: str, rows: int) -> Callable[[], object]:
    """List, recognise and freeze a night, and plan its scoring."""
    return_freed_memory()

    def work() -> int:
        settings, classes = Settings(store=store), list(CLASSES)
        with ExitStack() as stack:
            taken = take(Store(store), settings, "night", Wanted(images), classes, stack)
        batch = start_or_resume(
            Store(store), settings, "night", images, classes, limit=None,
            batch_date=date(2026, 1, 3), listed=taken.listed,
        )  # fmt: skip
        assert batch.rows == rows
        return len(plan_parts(Store(store), batch, by_slide=True))

    return work


def test_a_list_of_many_images_takes_no_more_memory_than_one_of_few(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "cell.png")
    taken = {}
    for rows in (FEW, MANY):
        images = folder_of(tmp_path / "cell.png", rows, tmp_path / f"{rows}")
        taken[rows] = extra_peak(listing, str(tmp_path / f"store-{rows}"), str(images), rows)
    assert taken[MANY] - taken[FEW] < LIST_OF_TEXT * (MANY - FEW)
