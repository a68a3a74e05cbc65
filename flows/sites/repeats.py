"""Find images that a site's nights already have: an image counts once, in whichever batch."""

from collections.abc import Sequence

import numpy as np

from flows.monitoring.console import warn
from flows.sites.versions import SiteError
from storage.batches.features import read_block
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.models.sites import SiteCard, SiteNight, images_of_batch, images_of_night
from storage.store import Store
from tasks.types import Mask


def without_replaced(
    store: Store, card: ModelCard, site: SiteCard | None, batch: Batch
) -> list[SiteNight]:
    """Return the other nights of a site, without those whose images the batch also has.

    So a night that is commissioned again under another name, with labels perhaps, replaces itself.

    Raises:
        SiteError: the batch has some, but not all images of a night.
    """
    mine = images_of_batch(store, card.name, batch) if batch.rows else frozenset[bytes]()
    left = []
    for night in site.nights if site else []:
        if night.batch == batch.name:
            continue
        theirs = images_of_night(store, card.name, night)
        both = len(mine & theirs) if theirs is not None else 0
        if night.manifest_digest == batch.manifest_digest or (theirs and both == len(theirs)):
            warn(
                f"batch {batch.name} has the images of night {night.batch}, and takes its place in "
                "the site: an image counts once"
            )
        elif both:
            assert site is not None
            raise SiteError(
                f"{both:,} of {len(mine):,} images of batch {batch.name} are in night "
                f"{night.batch} of {site.label} already, and an image counts once: leave them out "
                f"of the batch, or give it all images of {night.batch}, whose place it takes then"
            )
        else:
            left.append(night)
    return left


def not_repeated(store: Store, card: ModelCard, nights: Sequence[SiteNight], batch: Batch) -> Mask:
    """Mark the rows (n,) of a batch whose images are in none of some nights, nor in an earlier row.

    Nights whose features are no longer here are recognised by an equal manifest.
    """
    known = set[bytes]()
    for night in nights:
        if night.manifest_digest == batch.manifest_digest:
            return np.zeros(batch.rows, bool)
        known |= images_of_night(store, card.name, night) or set()
    block = read_block(store, card.name, batch.key, 0, batch.rows, taps=False)
    new = np.zeros(batch.rows, bool)
    for row, image in enumerate(block.image_id):
        key = image.tobytes()
        new[row] = key not in known
        known.add(key)
    return new
