"""List the images of folders, files, globs, archives and manifests on any fsspec filesystem.

Every source gives the same table: one row for each image, with a URL from which any worker can read
its bytes (`tasks.images.access.files`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.images.access.addresses import (
    ARCHIVES,
    EXTENSIONS,
    GLOB,
    archive_kind,
    as_text,
    extension,
    holds_link,
    in_archive,
    parts_of,
    split_link,
)
from tasks.images.access.files import SourceError, asked, filesystem, list_members
from tasks.images.access.folders import Listed, list_files
from tasks.images.labels import FolderLabels
from tasks.images.manifest import SCHEMA, read_manifest
from tasks.images.names import parse_name
from tasks.images.sorted_rows import RowSorter, SortedRows, repeated_rows
from tasks.words import counted

NOT_UTF_8 = "unreadable: the name of the file is not UTF-8: rename it"
LISTED = ("uri", "failure", "size", "label", "slide_id", "patient_id", "acquired_at")
MACOSX = "__MACOSX"  # a folder of an archive
HIDDEN, HIDDEN_IMAGES = "hidden", "hidden images"
KINDS_NAMED = 5  # of omitted files
PART = 2**11  # files
Sources = str | Sequence[str]  # one source or several


def as_given(sources: Sources) -> str | list[str]:
    """Return sources in the form that is stored and compared: a str if there is only one.

    Raises:
        SourceError: there are none, or one is empty, which would mean the working folder.

    >>> as_given(["cells"]), as_given(["monday", "tuesday"])
    ('cells', ['monday', 'tuesday'])
    """
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
    """Join the sources for a sentence."""
    return ", ".join(each_source(sources))


def refuse_missing(sources: Sources) -> None:
    """Raise SourceError if a local source does not exist; remote ones are not checked."""
    for source in each_source(sources):
        inside = source.partition("://")[2]
        address = split_link(inside)[1] if in_archive(source) else source
        if "://" in address and not address.startswith("file://"):
            continue
        fs, root = filesystem(address)
        there = asked(address, partial(fs.exists, root))
        if not there and not any(letter in root for letter in GLOB):
            raise SourceError(f"{source} does not exist")


def list_images(
    source: Sources,
    *,
    classes: Iterable[str] = (),
    limit: int | None = None,
    extensions: frozenset[str] = EXTENSIONS,
    trusted: Callable[[str], bool] = lambda source: False,
    on_skip: Callable[[str], None] = lambda message: None,
) -> pa.Table:
    """List the images of a source, in an order that depends only on their names.

    Args:
        source: a folder, one image, a glob, a zip or tar archive, a folder in one
            (``zip://folder::archive.zip``), a .parquet or .csv manifest; or several of them.
        classes: folder names that are labels, in any case; a file directly in such a folder has
            that label.
        limit: number of images to take, spread evenly over the source.
        extensions: of files that are images.
        trusted: whether a manifest is slidewatch's own, so that its rows may name any filesystem.
        on_skip: called with messages: linked folders, which are not followed, numbers of files
            that are no images and of hidden images, and labels that differ from a class in case.

    Returns:
        A table of `SCHEMA`, sorted by patient, slide and URL.

    Raises:
        SourceError: the source does not exist, is damaged, or names an image twice.
    """
    return sorted_images(
        source,
        classes=classes,
        limit=limit,
        extensions=extensions,
        trusted=trusted,
        on_skip=on_skip,
    ).table()


def sorted_images(
    source: Sources,
    *,
    classes: Iterable[str] = (),
    limit: int | None = None,
    extensions: frozenset[str] = EXTENSIONS,
    trusted: Callable[[str], bool] = lambda source: False,
    on_skip: Callable[[str], None] = lambda message: None,
) -> SortedRows:
    """List the images of a source with few of them in memory; see `list_images`."""
    labels = FolderLabels(classes)
    sorter = RowSorter(SCHEMA, _order)
    for one in each_source(source):
        _read(one, sorter.add, labels, extensions, trusted, on_skip)
    images = sorter.sorted()
    for folder, label in sorted(labels.renamed.items()):
        on_skip(f"folders called {folder!r} are taken as class {label}: only capitals differ")
    _refuse_repeats(images, named(source))
    return images if limit is None else images.spread(limit)


def class_numbers(table: pa.Table, classes: Sequence[str]) -> NDArray[np.int8]:
    """Return the number (n,) of every image's class; -1 if its label is missing or no class."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.asarray([numbers.get(label, -1) for label in table["label"].to_pylist()], np.int8)


def _order(table: pa.Table) -> pa.Table:
    """Sort by patient, slide and URL; regions of one source stay in the order of their manifest.

    In it neighbours are consecutive, and are read from the same tiles of a slide.
    """
    return pa.table(
        {
            "patient": table["patient_id"],
            "slide": table["slide_id"],
            "source": pc.coalesce(table["source_uri"], table["uri"]),
        }
    )


def _read(
    source: str,
    add: Callable[[pa.Table], None],
    classes: FolderLabels,
    extensions: frozenset[str],
    trusted: Callable[[str], bool],
    on_skip: Callable[[str], None],
) -> None:
    """Add the images of a source, part by part."""
    try:
        if source.lower().endswith((".parquet", ".csv")):
            for part in read_manifest(source, trusted=trusted(source)):
                add(part)
        else:
            _add_files(source, add, classes, extensions, on_skip)
    except FileNotFoundError:
        raise SourceError(f"{source} does not exist") from None
    except PermissionError:
        raise SourceError(f"{source} may not be read: permission denied") from None


def _add_files(
    source: str,
    add: Callable[[pa.Table], None],
    classes: FolderLabels,
    extensions: frozenset[str],
    on_skip: Callable[[str], None],
) -> None:
    archive = archive_kind(source)
    kind, _, inside = source.partition("://")
    if in_archive(source) and "::" in inside:
        folder, address = split_link(inside)
        _add(add, _list_archive(address, kind, extensions, on_skip, folder.strip("/")), classes)
        return
    if archive:
        _add(add, _list_archive(source, archive, extensions, on_skip), classes)
        return
    told: list[str] = []  # because on_skip may belong to this thread
    list_files(
        source,
        lambda listed: _add(add, _images_of(listed, source, extensions, told.append), classes),
    )
    for message in told:
        on_skip(message)


def _images_of(
    listed: Listed, source: str, extensions: frozenset[str], on_skip: Callable[[str], None]
) -> Iterable[tuple[str, str, int | None]]:
    """List (URL, path for its name, size) of an image, or of the images of a folder or glob."""
    others: Counter[str] = Counter()
    for path, size, _ in listed.files:
        if listed.is_file and not _is_image(parts_of(path)[-1], extensions):
            raise SourceError(
                f"{source} is no image (a name that ends in {', '.join(sorted(extensions))}), no "
                f"archive ({', '.join(ARCHIVES)}) and no manifest (.parquet, .csv)"
            )
        # A hidden file that a pattern names is wanted, and so is a source in a hidden folder.
        below = path.removeprefix(listed.above) if listed.above else parts_of(path)[-1]
        if _is_image(below, extensions):
            yield str(listed.fs.unstrip_protocol(path)), path, size
        else:
            others[_kind(below, extensions)] += 1
    for linked in sorted(listed.linked):
        on_skip(f"{linked} is a link to a folder, and is not looked into: name it as a source")
    _tell_of_others(source, others, on_skip)


def _list_archive(
    source: str,
    kind: str,
    extensions: frozenset[str],
    on_skip: Callable[[str], None],
    folder: str = "",
) -> Iterable[tuple[str, str, int | None]]:
    fs, path = filesystem(source)
    address = str(fs.unstrip_protocol(path))
    if holds_link(address):
        raise SourceError(f"{source} has '::' and a URL in its name: rename the archive")
    others: Counter[str] = Counter()
    inside = parts_of(folder)
    for name, size in list_members(kind, address):
        if parts_of(name)[: len(inside)] != inside:
            continue
        if _is_image(name, extensions):
            yield f"{kind}://{name}::{address}", name, size
        else:
            others[_kind(name, extensions)] += 1
    _tell_of_others(source, others, on_skip)


def _tell_of_others(source: str, others: Counter[str], on_skip: Callable[[str], None]) -> None:
    """Report the numbers of omitted files of a source, one message per kind."""
    del others[HIDDEN]
    if hidden := others.pop(HIDDEN_IMAGES, 0):
        on_skip(
            f"{counted(hidden, 'hidden image')} of {source} left out, because "
            "a name or a folder begins with a dot: rename it to have it read"
        )
    if others:
        often = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))[:KINDS_NAMED]
        kinds = ", ".join(f"{n:,} {extension}" for extension, n in often)
        more = f" and {len(others) - KINDS_NAMED} other kinds" if len(others) > KINDS_NAMED else ""
        on_skip(
            f"{counted(others.total(), 'file')} of {source} left out, because the extension is no "
            f"image's: {kinds}{more}"
        )


def _kind(path: str, extensions: frozenset[str]) -> str:
    """Return the kind of an omitted file: its extension, unless it is hidden."""
    suffix = extension(path)
    if not _is_hidden(path):
        return suffix or "no extension"
    # For each file macOS adds a ._name to an archive, which is no image despite its name.
    parts = parts_of(path)
    shadow = MACOSX in parts or parts[-1].startswith("._")
    return HIDDEN_IMAGES if suffix in extensions and not shadow else HIDDEN


def _is_image(path: str, extensions: frozenset[str]) -> bool:
    """Return whether a path below a source is an image that is not hidden."""
    return extension(path) in extensions and not _is_hidden(path)


def _is_hidden(path: str) -> bool:
    # A member called ../x.png is not hidden: it is listed, and refused when it is read.
    return any(p == MACOSX or (p[0] == "." and p != "..") for p in parts_of(path))


def _add(
    add: Callable[[pa.Table], None],
    files: Iterable[tuple[str, str, int | None]],
    classes: FolderLabels,
) -> None:
    left = iter(files)
    # By parts, because a Python str takes several times the memory of one in a table.
    while some := list(islice(left, PART)):
        found = _part(some, classes)
        nothing = {each.name: pa.nulls(len(some), each.type) for each in SCHEMA}
        add(pa.Table.from_pydict(nothing | found, schema=SCHEMA))


def _part(
    files: Sequence[tuple[str, str, int | None]], classes: FolderLabels
) -> dict[str, pa.Array]:
    # By column: a dictionary for each row would take a kilobyte.
    columns: dict[str, list[object]] = {name: [] for name in LISTED}
    for uri, path, size in files:
        *_, folder, file = ["", *parts_of(path)]
        name, readable = parse_name(as_text(file)), as_text(uri)
        row = (
            readable,
            None if readable == uri else NOT_UTF_8,
            size,
            classes.of(as_text(folder)),
            name.slide_id,
            name.patient_id,
            name.acquired_at,
        )
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value)
    return {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}


def _refuse_repeats(images: SortedRows, source: str) -> None:
    def each() -> Iterator[list[str]]:
        return (part["uri"].to_pylist() for part in images.parts(["uri"]))

    hashed = (np.asarray([hash(uri) for uri in uris], np.int64).view(np.uint64) for uris in each())
    again = repeated_rows(hashed)
    if not len(again):
        return
    every, rows = chain.from_iterable(each()), set(again.tolist())
    suspects = {uri for row, uri in enumerate(every) if row in rows}
    counts = Counter(uri for uris in each() for uri in uris if uri in suspects)
    repeated = {uri: times for uri, times in counts.items() if times > 1}
    for uri, times in islice(repeated.items(), 1):
        raise SourceError(
            f"{source} names {uri} {times} times "
            f"({counted(len(repeated), 'image')} named more than once): keep one row each"
        )
