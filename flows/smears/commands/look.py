"""Run the command `look`: screen one photograph by `flows.smears.api`, and open its page."""

import os
import sys
import tempfile
import webbrowser
from contextlib import closing
from pathlib import Path

from flows.commands.written import to_write, written
from flows.monitoring.console import moving
from flows.options import tools
from flows.outcome import Outcome, printable, quoted
from flows.settings import Settings
from flows.smears import api
from storage.store import Store
from tasks.images.listing import refuse_missing
from tasks.images.names import batch_name


class LookOutcome(Outcome):
    """The figures of one photograph, and its page, if it has cells."""

    photo: str
    sentence: str
    next_step: str
    taken_for: dict[str, int]
    cells: int
    diagnoses: dict[str, int]
    calls: dict[str, int]
    abnormal: int
    light: str
    reasons: list[str]
    failures: dict[str, int]
    why: dict[str, str]
    detector: str
    page: str | None
    opened: bool

    @property
    def failed(self) -> bool:
        """Return whether the photograph, or a cell of it, could not be read, or it has no cells."""
        return bool(self.failures) or not self.cells

    def _text(self) -> str:
        failed = [f"{n:,} failed: {printable(self.why[each])}" for each, n in self.failures.items()]
        said = [self.sentence, self.next_step, *failed]
        if self.page:
            said.append(": ".join((f"{self.light} light", *self.reasons[:1])))
            said.append(f"{printable(self.page)}{'' if self.opened else ' (open it in a browser)'}")
        return "\n".join(filter(None, said))


def look(options: tools.Look, settings: Settings) -> LookOutcome:
    """Screen a photograph; the store stays as it is."""
    refuse_missing(options.photo)
    page = (
        to_write(options.to, Store(settings.store), force=options.force)
        if options.to
        else Path(tempfile.mkdtemp(prefix="slidewatch-")) / f"{batch_name(options.photo)}.html"
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    opened = api.store_of(settings)
    with moving("getting ready"), closing(opened.detector(options.detector)) as detector:
        seen = detector.look(
            options.photo, taken_as=options.taken_as, microns_per_pixel=options.microns_per_pixel
        )
        if seen.outcome.scored:
            with written(page) as stage:
                stage.write_bytes((seen.page or "").encode())
    has_display = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    is_shown = seen.outcome.scored and options.browser and has_display
    shown = bool(is_shown and webbrowser.open(page.absolute().as_uri()))
    return LookOutcome(
        photo=options.photo,
        sentence=f"{quoted(Path(options.photo).name)}: {seen.sentence}",
        next_step=seen.next_step,
        why={each.partition(":")[0]: each for each in reversed(seen.failures)},
        cells=seen.outcome.scored,
        calls=seen.outcome.patients,
        page=str(page) if seen.outcome.scored else None,
        opened=shown,
        **seen.outcome.model_dump(include=set(LookOutcome.model_fields) - {"page"}),
    )
