"""Read what a browser sends to the pages, and send it on."""

import math
from collections.abc import Mapping
from unicodedata import category, normalize
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from flows.outcome import quoted
from storage.store import StoreError

LONGEST_LOOK = 600.0  # seconds; a longer look was a break


async def form_of(request: Request) -> list[tuple[str, str]]:
    """Read the names and values of a form."""
    return parse_qsl((await request.body()).decode(errors="replace"))


def seconds_of(form: Mapping[str, str]) -> float:
    """Read from a form for how many seconds the reader has looked."""
    try:
        seconds = float(form.get("seconds", "0"))
    except ValueError:
        seconds = 0.0
    # No comparison holds for NaN, and JSON has none.
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_LOOK)


def checked_reader(given: str) -> str:
    """Return a reader's name, in one spelling; StoreError if it is none."""
    name = normalize("NFC", " ".join(given.split()))
    odd = [c for c in name if category(c)[0] not in "LMN" and c not in " .-_'"]
    if odd or not name[:1].isalnum() or len(name) > 120:
        raise StoreError(f"{quoted(given)} is no reader's name: use 1 to 120 letters and digits")
    return name


def reader_of(request: Request) -> str:
    """Return the reader in an address; 404 for a name that no reader can have."""
    try:
        return checked_reader(request.path_params["reader"])
    except StoreError as error:
        raise HTTPException(404, str(error)) from None


def go_to(request: Request, path: str) -> Response:
    """Send the browser to another of the pages."""
    return RedirectResponse(request.scope["root_path"] + path, 303)
