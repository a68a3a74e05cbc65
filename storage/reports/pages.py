"""Keep pages for people: ``reports/html/<batch>.html``, and ``index.html`` on all nights."""

from storage.store import Store

HTML = "html"
HEAD = 4096  # bytes of a page that say from which reports it was made


def page_path(batch: str) -> tuple[str, ...]:
    """Locate the page of a batch, relative to the store."""
    # A batch may be called index; none can have "~" in its name.
    return ("reports", HTML, "index~.html" if batch == "index" else f"{batch}.html")


def index_path() -> tuple[str, ...]:
    """Locate the page on all nights, relative to the store."""
    return ("reports", HTML, "index.html")


def withdrawn_page(batch: str) -> bytes:
    """Make the page of a batch whose reports are being replaced, which says so."""
    text = f"The reports of batch {batch} are being replaced"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{text}</title>'
        f"<p>{text}; run slidewatch screen again if this page stays.</p></html>\n"
    ).encode()


def page_is_of(store: Store, batch: str, made_from: str) -> bool:
    """Tell whether the head of a batch's page names ``made_from``, the digest of its reports.

    A page may be older than the reports: a run can end between publishing these and writing it.
    """
    try:
        with store.open(*page_path(batch)) as page:
            return made_from.encode() in page.read(HEAD)
    except FileNotFoundError:
        return False


def page_names(store: Store) -> dict[str, str]:
    """Map batches to the file names of their pages."""
    index = index_path()[-1]
    names = [name for name in store.names("reports", HTML) if name != index]
    return {name.removesuffix(".html").removesuffix("~"): name for name in names}
