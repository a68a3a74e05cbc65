"""Write the index that lists the pages of batches."""

from datetime import date

from flows.monitoring import console
from flows.smears.stages import calling
from storage import leases
from storage.batches import manifests
from storage.smears.pages import (
    index_path,
    page_names,
    page_path,
    write_page_file,
)
from storage.store import Store
from tasks.smears.visualisation.batch_page import index_page

LISTED = 120  # batches on the index; a file of each is read every night


def write_index(store: Store, batch: manifests.Batch) -> None:
    """Write the page that lists the batches; link this batch's page, which is written next.

    Only one run at a time writes it, or an older list might replace a newer one.
    """
    with leases.lease(store, "reports", wait=True, on_wait=console.tell) as held:
        if store.fence:
            store.fence.check()
        nights = calling.nights_before(store, date.max, LISTED)
        pages = page_names(store) | {batch.name: page_path(batch.name)[-1]}
        write_page_file(held.store, index_page(nights, pages), *index_path())
