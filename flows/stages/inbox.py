"""List an inbox in which images arrive all the time, and find those that a night may take."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from storage.batches.nights import Night, read_taken
from storage.store import Store
from tasks.images.access import files, folders
from tasks.images.access.addresses import EXTENSIONS, as_text, in_archive
from tasks.images.listing import list_images


class FileStamp(NamedTuple):
    """A listed file; ``modified`` is None if the filesystem does not say."""

    size: int | None
    modified: datetime | None


@dataclass(frozen=True)
class Arrivals:
    """New images as rows of a manifest; counts of images still written, and changed since."""

    images: pa.Table
    unsettled: int
    rewritten: int


def list_inbox(inbox: str) -> dict[str, FileStamp]:
    """List every file of a folder or pattern by URL; SourceError if it is no folder."""
    try:
        listed = None if in_archive(inbox) else folders.list_files(inbox)
    except FileNotFoundError:
        raise files.SourceError(f"inbox {inbox} does not exist: is the folder mounted?") from None
    except PermissionError:
        raise files.SourceError(f"inbox {inbox} may not be read: permission denied") from None
    if listed is None or listed.is_file:
        raise files.SourceError(
            f"{inbox} is one file, and no inbox: give the folder where images arrive, or a pattern "
            "such as /inbox/*/*.png"
        )
    now = datetime.now(UTC)
    return {
        as_text(str(listed.fs.unstrip_protocol(path))): FileStamp(size, _modified(changed, now))
        for path, size, changed in listed.files
    }


def arrivals(
    store: Store,
    earlier: Iterable[Night],
    inbox: str,
    *,
    classes: Iterable[str],
    settle: float,
    extensions: frozenset[str] = EXTENSIONS,
    on_skip: Callable[[str], None] = lambda message: None,
) -> Arrivals:
    """Find the images of an inbox that no earlier night took and that are completely written.

    An image waits if it was modified in the last ``settle`` seconds, or has another size in a
    second listing; without times, these are ``settle`` seconds apart. An image of another size than
    when it was taken is a new image. ``on_skip`` is called for each skipped folder.
    """
    before = datetime.now(UTC) - timedelta(seconds=settle)
    first = list_inbox(inbox)
    if any(seen.modified is None for seen in first.values()):
        time.sleep(settle)
    listed = list_images(
        inbox, classes=classes, extensions=extensions, trusted=store.holds, on_skip=on_skip
    )
    listed, rewritten = without_taken(store, earlier, listed, first)
    settled = [
        (seen := first.get(uri)) is not None
        and seen.size == size
        and (seen.modified is None or seen.modified <= before)
        for uri, size in zip(listed["uri"].to_pylist(), listed["size"].to_pylist(), strict=True)
    ]
    images = listed.filter(pa.array(settled, pa.bool_()))
    return Arrivals(images, listed.num_rows - images.num_rows, rewritten)


def without_taken(
    store: Store, nights: Iterable[Night], listed: pa.Table, seen: dict[str, FileStamp]
) -> tuple[pa.Table, int]:
    """Remove images that earlier nights took; count those changed since the last night."""
    nights = [night for night in nights if night.images]
    last = max((night.frozen_at for night in nights), default=None)
    keys, rewritten = _keys(listed), 0
    for night in nights:
        taken = pc.is_in(keys, value_set=_keys(read_taken(store, night)))
        for uri in listed.filter(taken)["uri"].to_pylist():
            modified = seen[uri].modified if uri in seen else None
            rewritten += modified is not None and last is not None and modified > last
        listed, keys = listed.filter(pc.invert(taken)), keys.filter(pc.invert(taken))
    return listed, rewritten


def _keys(images: pa.Table) -> pa.Array:
    text = pa.large_string()  # all URLs of a night may exceed 2 GB
    sizes = pc.fill_null(images["size"].cast(text), pa.scalar("unknown", text))
    keys = pc.binary_join_element_wise(images["uri"].cast(text), sizes, pa.scalar("\n", text))
    return keys.combine_chunks()


def _modified(changed: float | datetime | str | None, now: datetime) -> datetime | None:
    """Parse the time of a file's last change; None if it is unknown or in the future."""
    moment = datetime.fromtimestamp(changed, UTC) if isinstance(changed, int | float) else changed
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        return None
    return moment if moment <= now else None
