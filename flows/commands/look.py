"""Run the command `look`: screen one photograph, and open its page.

It works in a store of its own that is thrown away: a single photograph is not a batch, and later
batches must not be compared with it. Model, detector and laboratory are those of the user's store.
"""

import os
import re
import shutil
import sys
import tempfile
import webbrowser
from pathlib import Path

from flows.monitoring.console import tell, warn
from flows.options import flows, tools
from flows.outcome import Outcome, table
from flows.screen import screen
from flows.settings import Settings
from storage.models.laboratories import borrow, detector_at
from storage.models.shipped import shipped
from storage.store import Store, StoreError, refuse_absent
from tasks.images.listing import refuse_missing


class LookOutcome(Outcome):
    """The figures of one photograph, and its page."""

    photo: str
    taken_for: dict[str, int]
    cells: int
    diagnoses: dict[str, int]
    calls: dict[str, int]
    abnormal: int
    light: str
    reasons: list[str]
    failures: dict[str, int]
    detector: str
    page: str
    opened: bool

    @property
    def failed(self) -> bool:
        """Return whether the photograph, or a cell of it, could not be read."""
        return bool(self.failures)

    def _text(self) -> str:
        rows: list[tuple[str, object]] = [
            ("cells", f"{self.cells:,}, of which {self.abnormal:,} abnormal"),
            ("diagnoses", ", ".join(f"{n:,} {name}" for name, n in self.diagnoses.items())),
            ("call", ", ".join(self.calls) or "none"),
            ("light", f"{self.light}{': ' if self.reasons else ''}{'; '.join(self.reasons)}"),
            ("detector", self.detector),
            ("page", f"{self.page}{'' if self.opened else ' (open it in a browser)'}"),
        ]
        if self.failures:
            rows.insert(0, ("failed", ", ".join(f"{n} {why}" for why, n in self.failures.items())))
        return f"{self.photo}\n{table(rows)}"


def look(options: tools.Look, settings: Settings) -> LookOutcome:
    """Screen a photograph; the store stays as it is.

    Raises:
        SourceError: there is no such photograph.
        StoreError: there is no such detector or laboratory.
    """
    refuse_missing(options.photo)
    page = (
        Path(options.to)
        if options.to
        else Path(tempfile.mkdtemp(prefix="slidewatch-")) / f"{_name(options.photo)}.html"
    )
    with tempfile.TemporaryDirectory(prefix="slidewatch-look-") as folder:
        scratch = Store(folder)
        store = _store(settings)
        card, laboratory_card = detector_at(store, options.detector, options.laboratory, warn)
        borrow(store, scratch, card, laboratory_card)
        outcome = screen(
            flows.Screen(
                images=options.photo,
                batch=_name(options.photo),
                taken_as=options.taken_as,
                microns_per_pixel=options.microns_per_pixel,
                detector=card.name,
                laboratory=options.laboratory,
            ),
            settings.model_copy(update={"store": folder, "metrics": None}),
        )
        if outcome.page_failure:
            raise StoreError(
                f"the page of {options.photo} could not be made ({outcome.page_failure})"
            )
        shutil.copyfile(outcome.page, page)
    opened = options.browser and _has_display() and webbrowser.open(page.absolute().as_uri())
    return LookOutcome(
        photo=options.photo,
        cells=outcome.scored,
        calls=outcome.patients,
        page=str(page),
        opened=opened,
        **outcome.model_dump(include=set(LookOutcome.model_fields) - {"page"}),
    )


def _store(settings: Settings) -> Store:
    """Return the store to take a detector from; without one, that of the package."""
    store = Store(settings.store)
    try:
        refuse_absent(store)
    except StoreError as error:
        tell(f"{error}. Meanwhile the detector that comes with slidewatch is used")
        return shipped()
    return store


def _name(photo: str) -> str:
    """Name the batch of a photograph as its file, in signs that a batch may have."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(photo.rstrip("/")).stem).strip("-_.")
    return stem[:100] or "photograph"


def _has_display() -> bool:
    """Return whether a browser can show a page here, and not in the middle of a terminal."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
