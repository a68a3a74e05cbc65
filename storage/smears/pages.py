"""Keep pages for people: ``reports/html/<batch>.html``, and ``index.html`` for all nights.

The last line of a page is a comment with the sha256 of everything before it, by which `verify`
recognises a page that was cut short or changed.
"""

import re

from storage.smears.call_seals import CallSeal
from storage.store import Store, StoreError, digest_of

HTML = "html"
INDEX = ("reports", HTML, "index.html")  # the page on all nights, relative to the store
HEAD = 4096  # bytes of a page within which it names its reports
LAST_LINE = re.compile(rb"<!-- sha256 ([0-9a-f]{64}) -->\n\Z")
ANEW = "run the same slidewatch screen again to make a new page"


def page_path(batch: str) -> tuple[str, ...]:
    """Locate the page of a batch, relative to the store."""
    # A batch may be called index, but no batch has "~" in its name.
    return ("reports", HTML, "index~.html" if batch == "index" else f"{batch}.html")


def withdrawn_page(batch: str) -> bytes:
    """Make the page that says that a batch's reports are being replaced."""
    text = f"The reports of batch {batch} are being replaced"
    return _with_digest(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{text}</title>'
        f"<p>{text}; run slidewatch screen again if this page stays.</p></html>\n"
    )


def _with_digest(page: str) -> bytes:
    content = (page if page.endswith("\n") else f"{page}\n").encode()
    return content + f"<!-- sha256 {digest_of(content)} -->\n".encode()


def write_page_file(store: Store, page: str, *path: str) -> None:
    """Write a page, with its digest as its last line."""
    store.write_bytes(_with_digest(page), *path)


def check_page(store: Store, *path: str) -> bytes:
    """Return the content of a page; StoreError if it changed since it was written."""
    content = store.read_bytes(*path)
    last_line = LAST_LINE.search(content)
    if last_line is None:
        raise StoreError(f"it is cut short, or its end was changed: {ANEW}")
    if digest_of(content[: last_line.start()]) != last_line[1].decode():
        raise StoreError(f"it is not the page that was written (sha256 differs): {ANEW}")
    return content


def made_from(called: CallSeal) -> str:
    """Compute the digest that identifies the reports of a batch together."""
    digests = [called.report_digest, *(each for _, each in sorted(called.digests.items()))]
    return digest_of(" ".join(digests).encode())


def page_is_of(store: Store, batch: str, made_from: str) -> bool:
    """Return whether a batch's page names ``made_from``, the digest of its reports, in its head.

    A page may be older than the reports, if a run ended after publishing and before writing it.
    """
    try:
        with store.open(*page_path(batch)) as page:
            return made_from.encode() in page.read(HEAD)
    except FileNotFoundError:
        return False


def page_names(store: Store) -> dict[str, str]:
    """Map batches to the file names of their pages."""
    names = [name for name in store.names("reports", HTML) if name != INDEX[-1]]
    return {name.removesuffix(".html").removesuffix("~"): name for name in names}
