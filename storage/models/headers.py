"""Check the header of a file from another store: names, digests, counts and rates."""

from collections.abc import Iterable, Sequence
from typing import NoReturn

from storage.models.classifiers import ModelCard
from storage.models.detectors import CountingCard, DetectorCard, RateCard
from storage.models.sites import ALL, AdaptationCard, SiteCard
from storage.models.statistics import Contribution
from storage.store import StoreError, check_name

HEXADECIMAL = set("0123456789abcdef")
PSEUDONYMS = (16, 64)  # characters in one
MOST = 10**12  # cells, slides, attempts and versions
LONGEST_TEXT, MOST_TEXTS = 500, 100
# The limits in `tasks.sites.adaptation`: log scale within 3, bias within 20.
SCALES, BIASES = (0.0497, 20.1), (-20.0, 20.0)
LOSSES = (0.0, 1e4)
LOG_ODDS = (-50.0, 50.0)


def _refuse(field: str, value: object, limit: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    raise StoreError(f"{field} is {shown}, and must be {limit}: nothing was imported")


def _number(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN is in no range
        _refuse(field, value, f"{least:g} to {most:g}")


def _digest(field: str, value: str) -> None:
    if len(value) != 64 or not set(value) <= HEXADECIMAL:
        _refuse(field, value, "a sha256 of 64 hexadecimal digits")


def _once(field: str, values: Iterable[str]) -> None:
    seen = set[str]()
    for value in values:
        if value in seen:
            _refuse(field, value, "there once, but is there twice")
        seen.add(value)


def _text(field: str, value: str) -> None:
    if len(value) > LONGEST_TEXT or not value.isprintable():
        _refuse(field, value, f"at most {LONGEST_TEXT} printable signs")


def check_contributions(found: Sequence[Contribution]) -> None:
    """Raise StoreError if a field of the statistics' batches is beyond its limit."""
    if not found:
        _refuse("the number of batches", 0, "at least 1")
    for each in found:
        check_name("batch", each.batch)
        where = f"batch {each.batch}"
        _number(f"{where}: attempt", each.attempt, 1, MOST)
        _digest(f"{where}: manifest_digest", each.manifest_digest)
        _number(f"{where}: images", each.images, 1, MOST)
        _number(f"{where}: held_out", each.held_out, 0, MOST)
        for field in ("without_patients", "without_slides", "repeated", "repeated_held_out"):
            if getattr(each, field):
                _refuse(f"{where}: {field}", getattr(each, field), "empty in a file")
        if each.foreign is not None:
            _refuse(f"{where}: foreign", each.foreign, "empty in a file")
    _once("a batch's name", (each.batch for each in found))
    _once("a batch's manifest_digest", (each.manifest_digest for each in found))


def refuse_taken_name(
    new: Contribution, known: Sequence[Contribution], batches: Iterable[str]
) -> None:
    """Raise StoreError if an imported batch has the name of a batch of this store."""
    if new.batch in {each.batch for each in known} | set(batches):
        _refuse("a batch's name", new.batch, "that of no batch of this store")


def check_site(card: SiteCard, model: ModelCard, detector: DetectorCard) -> None:
    """Raise StoreError if a field of a site's card is beyond its limit.

    ``model`` and ``detector`` are those of this store that the site names.
    """
    for kind, name in (("site", card.name), ("detector", card.detector), ("model", card.model)):
        check_name(kind, name)
    _number("version", card.version, 1, MOST)
    _number("commissioned", card.commissioned, 1, card.version)
    if card.parent is not None:
        _number("parent", card.parent, 1, card.version - 1)
    _text("operation", card.operation)
    _number("the number of warnings", len(card.warnings), 0, MOST_TEXTS)
    for warning in card.warnings:
        _text("a warning", warning)
    if (card.model, card.statistics_version) != (model.name, detector.statistics_version):
        _refuse("model and statistics_version", (card.model, card.statistics_version),
                "those of the site's detector")  # fmt: skip
    _nights(card)
    # Slides of too few cells to be learned calibrate as well.
    _number("calibrating_slides", card.calibrating_slides, 0, MOST)
    for level, share in card.false_alarms.items():
        try:
            _number("a level of false_alarms", float(level), 0.0, 1.0)
        except ValueError:
            _refuse("a level of false_alarms", level, "0 to 1")
        _number(f"false_alarms at {level}", share, 0.0, 1.0)
    if card.counting is not None:
        _counting(card.counting, detector)
    if card.adaptation is not None:
        _adaptation(card.adaptation)


def _nights(card: SiteCard) -> None:
    for night in card.nights:
        check_name("batch", night.batch)
        where = f"night {night.batch}"
        _number(f"{where}: attempt", night.attempt, 1, MOST)
        for field in ("manifest_digest", "digest"):
            _digest(f"{where}: {field}", getattr(night, field))
        _number(f"{where}: slides", night.slides, 1, MOST)
        _number(f"{where}: cells", night.cells, night.slides, MOST)
        for name in night.negative:
            signs = len(name) if set(name) <= HEXADECIMAL else 0
            if name != ALL and not PSEUDONYMS[0] <= signs <= PSEUDONYMS[1]:
                _refuse(f"{where}: negative", name, "all, or 16 to 64 hexadecimal digits")
    if not card.commissioned_nights:
        _refuse("the number of commissioned nights", 0, "at least 1")
    _once("a night's batch", (night.batch for night in card.nights))
    _once("a night's manifest_digest", (night.manifest_digest for night in card.nights))
    for field in ("slides", "cells"):
        total = sum(getattr(night, field) for night in card.nights)
        if getattr(card, field) != total:
            _refuse(field, getattr(card, field), f"{total}, as its nights have")


def _counting(card: CountingCard, detector: DetectorCard) -> None:
    _number("counting: cells", card.cells, 1, MOST)
    if detector.counting is None:
        _refuse("counting", "there", "left out: the site's detector has no counting threshold")
    for name in ("counting", "dense", "diagnosis"):
        mine, known = getattr(card, name), getattr(detector.counting, name)
        _number(f"counting: {name}: log_odds", mine.log_odds, *LOG_ODDS)
        if abs(mine.log_odds - known.log_odds) > 1e-9:
            _refuse(f"counting: {name}: log_odds", mine.log_odds,
                    f"{known.log_odds:g}, as the site's detector has")  # fmt: skip
        if mine.limit_of_detection is not None:
            _number(f"counting: {name}: limit_of_detection", mine.limit_of_detection, 0.0, 1.0)
        _rate(f"counting: {name}: false_positives", mine.false_positives)
        _rate(f"counting: {name}: sensitivity", mine.sensitivity)


def _rate(field: str, card: RateCard) -> None:
    for name in ("mean", "low", "high", "deviation"):
        _number(f"{field}: {name}", getattr(card, name), 0.0, 1.0)
    for name in ("slides", "cells"):
        _number(f"{field}: {name}", getattr(card, name), 0, MOST)


def _adaptation(card: AdaptationCard) -> None:
    _number("adaptation: scale", card.scale, *SCALES)
    _number("adaptation: bias", card.bias, *BIASES)
    for name in ("cells", "slides"):
        _number(f"adaptation: {name}", getattr(card, name), 1, MOST)
    for name in ("loss_before", "loss_after"):
        _number(f"adaptation: {name}", getattr(card, name), *LOSSES)
    for name in ("accuracy_before", "accuracy_after"):
        _number(f"adaptation: {name}", getattr(card, name), 0.0, 1.0)
    for name in ("gain", "gain_low", "gain_high"):
        _number(f"adaptation: {name}", getattr(card, name), -LOSSES[1], LOSSES[1])
    name = "gain" if card.statistics and card.bias == 0 else "gain_low"
    if card.accepted and getattr(card, name) <= 0:
        _refuse("adaptation: accepted", True, f"false where {name} is not above 0")
