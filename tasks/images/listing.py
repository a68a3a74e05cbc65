"""List the images of folders, files, globs, archives and manifests on any fsspec filesystem.

Every source gives the same table: one row for each image, with a URL from which any worker can read
its bytes (`tasks.images.access.files`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from tasks.images import manifest, names, sorted_rows
from tasks.images.access.addresses import (
    ARCHIVES,
    EXTENSIONS,
    PARTIAL,
    UNREAD,
    archive_kind,
    as_text,
    extension,
    file_of,
    holds_link,
    in_archive,
    is_pattern,
    parts_of,
    split_link,
)
from tasks.images.access.files import SourceError, filesystem, list_members
from tasks.images.access.folders import Listed, list_files
from tasks.words import counted

NOT_UTF_8 = "unreadable: the name of the file is not UTF-8: rename it"
LISTED = ("uri", "failure", "size", "label", "slide_id", "patient_id", "acquired_at")
MACOSX = "__MACOSX"  # a folder of an archive
HIDDEN, OTHER = "hidden", "no picture"
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")  # of files by JPEG, PNG, TIFF
KINDS_NAMED = 5  # of omitted files
PART = 2**11  # files
Sources = str | Sequence[str]  # one source or several
# URL, path for its name, size in bytes, and why it is not read.
Image = tuple[str, str, int | None, str | None]


def as_given(sources: Sources) -> str | list[str]:
    """Return sources as they are stored, a str if there is one; SourceError if one is empty."""
    several = [sources] if isinstance(sources, str) else list(sources)
    if not several:
        raise SourceError("no images are named: give at least one source")
    if not all(each.strip() for each in several):
        raise SourceError("a source of images is an empty text: is a variable not set?")
    return several[0] if len(several) == 1 else several


def each_source(sources: Sources) -> list[str]:
    """List the sources."""
    given = as_given(sources)
    return [given] if isinstance(given, str) else given


def named(sources: Sources) -> str:
    """Join the sources for a sentence, as they were given."""
    return ", ".join(each_source(sources))


def refuse_missing(sources: Sources) -> None:
    """Raise SourceError if a local source does not exist; remote ones are not checked."""
    for source in each_source(sources):
        address = file_of(names.laboratory_of_source(source)[1])
        if "://" in address and not address.startswith("file://"):
            continue
        fs, root = filesystem(address)
        if not fs.exists(root) and not is_pattern(root):
            raise SourceError(f"{source} does not exist")


def sorted_images(
    source: Sources,
    *,
    classes: Iterable[str] = (),
    limit: int | None = None,
    extensions: frozenset[str] = EXTENSIONS,
    trusted: Callable[[str], bool] = lambda source: False,
    on_skip: Callable[[str], None] = lambda message: None,
) -> sorted_rows.SortedRows:
    """List the images of sources as rows of `SCHEMA`, sorted by patient, slide and URL.

    A source is a folder, one image, a glob, a zip or tar archive, a folder in one
    (``zip://folder::archive.zip``), or a .parquet or .csv manifest, and may be given as
    LABORATORY=SOURCE. Folders named after ``classes``, in any case, label their files. The images
    of a ``limit`` are spread evenly. A manifest that is ``trusted`` may name any filesystem, and
    trusted files in a source that is not are left out: they are the store's.
    ``on_skip`` is called with messages on omitted files, and on labels that differ in case.
    SourceError if a source does not exist, is damaged, or names an image twice.
    """
    sorter = sorted_rows.RowSorter(manifest.SCHEMA, _order)
    listing = _Listing(sorter.add, names.FolderLabels(classes), extensions, on_skip)
    for given in each_source(source):
        laboratory, one = names.laboratory_of_source(given)
        listing.of(laboratory).read(one, trusted=trusted)
    images = sorter.sorted()
    for folder, label in sorted(listing.classes.renamed.items()):
        on_skip(f"folders called {folder!r} are taken as class {label}: only capitals differ")
    _refuse_repeats(images, named(source))
    return images if limit is None else images.spread(limit)


def list_images(source: Sources, **options: Any) -> pa.Table:
    """List all images of a source in memory; see `sorted_images`."""
    return sorted_images(source, **options).table()


def class_numbers(table: pa.Table, classes: Sequence[str]) -> NDArray[np.int8]:
    """Return the number (n,) of every image's class; -1 if its label is missing or no class."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.asarray([numbers.get(label, -1) for label in table["label"].to_pylist()], np.int8)


def _order(table: pa.Table) -> pa.Table:
    # Regions of one source stay in the order of their manifest, in which neighbours follow each
    # other, and are read from the same tiles of a slide.
    source = pc.coalesce(table["source_uri"], table["uri"])
    return table.select(["patient_id", "slide_id"]).append_column("source", source)


@dataclass(frozen=True)
class _Listing:
    add: Callable[[pa.Table], None]
    classes: names.FolderLabels
    extensions: frozenset[str]
    on_skip: Callable[[str], None]

    def of(self, laboratory: str | None) -> "_Listing":
        """Return a listing that names patients after a laboratory; None leaves their names."""
        if laboratory is None:
            return self
        return replace(self, add=lambda part: self.add(manifest.at_laboratory(part, laboratory)))

    def read(self, source: str, *, trusted: Callable[[str], bool]) -> None:
        """Add the images of a source."""
        try:
            if source.lower().endswith((".parquet", ".csv")):
                for part in manifest.read_manifest(source, trusted=trusted(source)):
                    self.add(part)
            else:
                self._add_files(source, trusted)
        except FileNotFoundError:
            raise SourceError(f"{source} does not exist") from None
        except PermissionError:
            raise SourceError(f"{source} may not be read: permission denied") from None

    def _add_files(self, source: str, trusted: Callable[[str], bool]) -> None:
        kind, _, inside = source.partition("://")
        if in_archive(source) and "::" in inside:
            folder, address = split_link(inside)
            self._add(self._list_archive(address, kind, folder.strip("/")))
        elif archive := archive_kind(source):
            self._add(self._list_archive(source, archive))
        else:
            self._add(self._images_of(list_files(source), source, trusted))

    def _images_of(
        self, listed: Listed, source: str, trusted: Callable[[str], bool]
    ) -> Iterable[Image]:
        others: Counter[str] = Counter()
        is_ours = cache(trusted)  # a store among the images has none
        among = not trusted(source)
        for path, size, _ in listed.files:
            uri = str(listed.fs.unstrip_protocol(path))
            if among and is_ours(f"{uri.rpartition('/')[0]}/any"):
                continue
            if listed.is_file and self._why_not(parts_of(path)[-1]) is not None:
                raise SourceError(
                    f"{source} is no image (a name that ends in "
                    f"{', '.join(sorted(self.extensions))}), no archive ({', '.join(ARCHIVES)}) "
                    "and no manifest (.parquet, .csv)"
                )
            # A hidden file that a pattern names is wanted, and so is a source in a hidden folder.
            below = path.removeprefix(listed.above) if listed.above else parts_of(path)[-1]
            why = self._why_not(below)
            if why is OTHER and not is_hidden(below) and _is_picture(listed.fs, path):
                why = "left_out: it begins like a picture: call it .jpg, .png or .tif if it is one"
            if why is not OTHER:
                yield uri, path, size, why
            else:
                others[self._kind(below)] += 1
        for linked in sorted(listed.linked):
            self.on_skip(
                f"{linked} is a link to a folder, and is not looked into: name it as a source"
            )
        self._tell_of_others(source, others)

    def _list_archive(self, source: str, kind: str, folder: str = "") -> Iterable[Image]:
        fs, path = filesystem(source)
        address = str(fs.unstrip_protocol(path))
        if holds_link(address):
            raise SourceError(f"{source} has '::' and a URL in its name: rename the archive")
        others: Counter[str] = Counter()
        inside = parts_of(folder)
        for name, size in list_members(kind, address):
            if parts_of(name)[: len(inside)] != inside:
                continue
            if (why := self._why_not(name)) is not OTHER:
                yield f"{kind}://{name}::{address}", name, size, why
            else:
                others[self._kind(name)] += 1
        self._tell_of_others(source, others)

    def _tell_of_others(self, source: str, others: Counter[str]) -> None:
        del others[HIDDEN]
        if others:
            often = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))[:KINDS_NAMED]
            kinds = ", ".join(f"{n:,} {extension}" for extension, n in often)
            more = len(others) - KINDS_NAMED
            self.on_skip(
                f"{counted(others.total(), 'file')} of {source} left out, because the extension is "
                f"no image's: {kinds}{f' and {more} other kinds' if more > 0 else ''}"
            )

    def _kind(self, path: str) -> str:
        return HIDDEN if is_hidden(path) else extension(path) or "no extension"

    def _why_not(self, path: str) -> str | None:
        """Say why a picture is not read, so that it fails aloud; None if it is; or `OTHER`."""
        suffix, parts = extension(path), parts_of(path)
        if suffix in self.extensions and not is_hidden(path):
            return None
        # For each file macOS adds a ._name to an archive, which is no image despite its name.
        if MACOSX in parts or parts[-1].startswith("._"):
            return OTHER
        if suffix in PARTIAL and extension(path.removesuffix(suffix)) in {"", *self.extensions}:
            return f"left_out: a name that ends in {suffix} says that it is not completely copied"
        if suffix in UNREAD:
            return f"left_out: {suffix} is not read: save it as JPEG, PNG, TIFF or HEIC"
        if suffix in self.extensions:
            return "left_out: a name or a folder begins with a dot: rename it to have it read"
        return OTHER

    def _add(self, files: Iterable[Image]) -> None:
        left = iter(files)
        # By parts, because a Python str takes several times the memory of one in a table.
        while some := list(islice(left, PART)):
            columns = zip(*map(self._row, some), strict=True)
            arrays = {
                name: pa.array(values, manifest.SCHEMA.field(name).type)
                for name, values in zip(LISTED, columns, strict=True)
            }
            nothing = {each.name: pa.nulls(len(some), each.type) for each in manifest.SCHEMA}
            self.add(pa.Table.from_pydict(nothing | arrays, schema=manifest.SCHEMA))

    def _row(self, image: Image) -> tuple[object, ...]:
        uri, path, size, left_out = image
        *_, folder, file = ["", *parts_of(path)]
        name, readable = names.parse_name(as_text(file)), as_text(uri)
        failure = left_out if readable == uri else NOT_UTF_8
        label = self.classes.of(as_text(folder))
        return readable, failure, size, label, name.slide_id, name.patient_id, name.acquired_at


def _is_picture(fs: Any, path: str) -> bool:
    if not isinstance(fs, LocalFileSystem):  # where each look is a request
        return False
    with suppress(OSError), fs.open(path) as file:  # what may not be read is none
        return bool(file.read(4).startswith(BEGINNINGS))
    return False


def is_hidden(path: str) -> bool:
    """Return whether a name in a path begins with a dot, or is macOS's folder in archives."""
    # A member called ../x.png is not hidden: it is listed, and refused when it is read.
    return any(p == MACOSX or (p[0] == "." and p != "..") for p in parts_of(path))


def _refuse_repeats(images: sorted_rows.SortedRows, source: str) -> None:
    def each() -> Iterator[list[str]]:
        return (part["uri"].to_pylist() for part in images.parts(["uri"]))

    hashed = (np.asarray([hash(uri) for uri in uris], np.int64).view(np.uint64) for uris in each())
    again = sorted_rows.repeated_rows(hashed)
    if not len(again):
        return
    every, rows = chain.from_iterable(each()), set(again.tolist())
    suspects = {uri for row, uri in enumerate(every) if row in rows}
    counts = Counter(uri for uris in each() for uri in uris if uri in suspects)
    repeated = {uri: times for uri, times in counts.items() if times > 1}
    if repeated:
        uri, times = next(iter(repeated.items()))
        raise SourceError(
            f"{source} names {uri} {times} times "
            f"({counted(len(repeated), 'image')} named more than once): keep one row each"
        )
