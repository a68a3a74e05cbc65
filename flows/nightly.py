"""Run the flow `nightly`: new images of an inbox -> the night's report.

A night is the date of the run's scheduled start in the microscope's time zone. Its images are
frozen once, and then it is a batch for the flow `screen`. The next night takes what one missed.
"""

import logging
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from flows.monitoring import telemetry
from flows.monitoring.console import tell, warn
from flows.monitoring.logs import bind, log
from flows.options.flows import Nightly, OfANight, Screen
from flows.prefect.decorators import flow
from flows.prefect.runs import current_run, scheduled_start
from flows.screen import ScreenOutcome, screen
from flows.settings import Settings
from flows.stages.inbox import arrivals
from storage.batches import nights
from storage.leases import lease
from storage.models import classifiers
from storage.models.detectors import load_detector_card
from storage.records import now
from storage.store import Store, StoreError, check_name
from tasks.images.access.addresses import EXTENSIONS, SLIDE_EXTENSIONS
from tasks.words import counted

TOO_LATE = timedelta(hours=24)  # by then the next night is due


class MissedNightError(Exception):
    """A night was missed and cannot begin now: the next night takes its images."""


def night_of(moment: datetime, timezone: str) -> date:
    """Find the date of a moment in a time zone.

    >>> night_of(datetime.fromisoformat("2026-03-01T22:30:00+00:00"), "Africa/Kampala")
    datetime.date(2026, 3, 2)
    """
    return moment.astimezone(ZoneInfo(timezone)).date()


def run_name() -> str:
    """Name a run after its night."""
    run = current_run()
    assert run is not None
    assert run.parameters is not None
    options = Nightly.model_validate(run.parameters["options"])
    day = options.date or night_of(scheduled_start(), options.timezone)
    return nights.batch_of(options.series, day)


@flow(flow_run_name=run_name)
@telemetry.observed(night=True)
def nightly(options: Nightly, settings: Settings) -> ScreenOutcome:
    """Screen new images; a second run of a night resumes with the same images."""
    tonight = take_night(options, settings)
    with bind(batch=tonight.batch):
        return screen.fn(tonight, settings)


def take_night(options: Nightly, settings: Settings) -> Screen:
    """Freeze the new images of an inbox as a night, and return the options that screen it.

    MissedNightError if the night has never begun, and its time is over.
    """
    store = Store(settings.store)
    scheduled, moment = scheduled_start(), now()
    day = options.date or night_of(scheduled, options.timezone)
    today = night_of(moment, options.timezone)
    over = day != today if options.date else moment - scheduled >= TOO_LATE
    night = nights.find_night(store, options.series, day)
    if night is None and over:
        raise MissedNightError(
            f"night {nights.batch_of(options.series, day)} has not begun, and now, "
            f"{moment:%Y-%m-%d %H:%M} UTC, is not its time: a night that was missed has no "
            "report, the next takes its images"
        )
    if night is None or not over:
        with telemetry.stage("take"):
            night = _take_what_is_new(store, options, day)
    if night.inbox != options.inbox:
        raise StoreError(
            f"night {night.batch} took its images from {night.inbox}, not from {options.inbox}: "
            "give that --inbox to resume it, or another --series for another inbox"
        )
    return Screen(
        images=nights.manifest_address(store, night),
        batch=night.batch,
        date=day,
        **options.model_dump(include={"force", *OfANight.model_fields}),
    )


def _take_what_is_new(store: Store, options: Nightly, day: date) -> nights.Night:
    """Freeze the new images of an inbox as a night's, unless another run has just done so."""
    series, inbox = options.series, options.inbox
    detector = load_detector_card(store, options.detector, warn)
    card = classifiers.load_card(store, detector.model)
    # No two nights take the same images.
    with lease(store, "nights", check_name("series", series), wait=True, on_wait=tell) as held:
        night = nights.find_night(store, series, day)
        frozen_at = now()
        earlier = nights.list_nights(store, series)
        files = arrivals(
            store,
            earlier,
            inbox,
            classes=card.classes,
            settle=options.settle,
            extensions=EXTENSIONS if options.taken_as == "cells" else EXTENSIONS | SLIDE_EXTENSIONS,
            on_skip=warn,
        )
        held.check()
        if night and night.images:
            if night.inbox == inbox and (new := files.images.num_rows):
                tell(f"{counted(new, 'new image')} of {inbox} left for the night after {day}")
            return night
        night = nights.freeze_night(
            held.store, series, day, files.images, inbox=inbox, frozen_at=frozen_at
        )
    log(logging.INFO, f"batch {night.batch} takes {counted(night.images, 'new image')} of {inbox}")
    if files.unsettled:
        warn(f"{counted(files.unsettled, 'image')} still being written: left for the next night")
    if files.rewritten:
        warn(
            f"{counted(files.rewritten, 'image')} rewritten after an earlier night took them, with "
            "the same size: not taken again; give rewritten images new names"
        )
    return night
