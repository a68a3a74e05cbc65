"""Stores without images that take part in exchanges, and files that an attacker has changed."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from storage.arrays import Arrays, arrays_from_bytes, arrays_to_bytes
from storage.models.classifiers import ModelCard, save_model
from storage.models.detectors import CountingCard, RateCard, ThresholdCard, save_detector
from storage.models.sites import AdaptationCard, SiteCard, SiteNight, save_night, save_site
from storage.models.statistics import Contribution, Lineage, save_statistics
from storage.models.transfers import HEADER, Transfer, write_transfer
from storage.store import Store, digest_of
from tasks.counting.error_rates import ErrorCounts, count_errors
from tasks.counting.interpretation import ErrorRates, KnownRates
from tasks.counting.threshold import known_rates
from tasks.detector.moments import ClassStatistics, statistics_of
from tasks.detector.probabilities import Adaptation
from tasks.detector.witnesses import Classes, Scales, Witnesses
from tasks.sites.adaptation import SHARE, Labelled
from tasks.sites.learning import SlideCells, kept_statistics, merged, site_normal, slide_evidence
from tasks.sites.sharing import of_batch, shareable
from tasks.types import nested
from tests.support.cards import card as detector_card
from tests.support.models import CLASSES, WHEN
from tests.support.sites import WIDTHS, detector, of_site, slide

KEY = b"the secret of another store"
Header = dict[str, Any]
LABELLED = Labelled(np.zeros(2), np.ones(2, bool), ("S01", "S01"))


def statistics_at(seed: int, batch: str, slides: int = 12) -> ClassStatistics:
    """Statistics of simulated slides of the population."""
    rng = np.random.default_rng(seed)
    cells = [slide(rng, f"{batch}-{i:02d}", batch=batch) for i in range(slides)]
    taps = {tap: np.concatenate([s.taps[tap] for s in cells]) for tap in WIDTHS}
    labels = np.concatenate([s.predicted for s in cells])
    return statistics_of(taps, labels, 2, [s.key for s in cells for _ in s.rows])


def store_at(path: Path) -> Store:
    """Make a store with a model, statistics of one batch and a detector, all simulated."""
    store, weights = Store(str(path)), arrays_to_bytes({"w": np.zeros(1)})
    model = ModelCard(
        name="tiny", created_at=WHEN, digest=digest_of(weights), network={"classes": CLASSES},
        preprocessing="RGB", tap_widths=WIDTHS, temperature=1.0, split_by="patient",
        split={"train": [], "validation": [], "test": []}, training={}, metrics={}, versions={},
    )  # fmt: skip
    save_model(store, model, weights)
    found, none = statistics_at(0, "first", 30), ErrorCounts.empty()
    content = arrays_to_bytes(found.to_arrays() | nested("errors", none.to_arrays()))
    lineage = Lineage(
        model="tiny", version=1, parent=None, operation="fit first", created_at=WHEN,
        contributions=[Contribution(batch="first", attempt=1, manifest_digest="0" * 64,
                                    images=int(found.n.sum()), held_out=0)],
        images=dict(zip(CLASSES, map(int, found.n), strict=True)), digest=digest_of(content),
    )  # fmt: skip
    save_statistics(store, lineage, content)
    known = Witnesses(0, _classes().discriminant(), Scales(*[Adaptation()] * 3))
    fitted = replace(detector(), witnesses=known).to_arrays()
    content = arrays_to_bytes(fitted | nested("error_rates", _rates().to_arrays()))
    save_detector(
        store,
        detector_card("tiny-v0001", content=content).model_copy(
            update={"model_digest": model.digest, "slides": 30, "counting": _counting()}
        ),
        content,
    )
    return store


@lru_cache(maxsize=1)
def _classes() -> Classes:
    slides = statistics_at(0, "first", 30).slides
    assert slides is not None
    return Classes.of(slides, 0)


@lru_cache(maxsize=1)
def _errors() -> ErrorCounts:
    rng = np.random.default_rng(3)
    parasitized = rng.random(600) < 0.4
    odds = np.where(parasitized, 4.0, -4.0) + 2 * rng.normal(size=600)
    return count_errors(odds, parasitized, [f"S{i % 12:02d}" for i in range(600)])


@lru_cache(maxsize=1)
def _rates() -> KnownRates:
    return known_rates(_errors(), 1000)


def _counting() -> CountingCard:
    def threshold(rates: ErrorRates) -> ThresholdCard:
        figures = ("mean", "low", "high", "deviation", "slides", "cells")
        false, found = (
            RateCard(**{name: getattr(rate, name) for name in figures})
            for rate in (rates.false, rates.found)
        )
        return ThresholdCard(
            log_odds=rates.log_odds, limit_of_detection=0.1, false_positives=false,
            sensitivity=found,
        )  # fmt: skip

    counting, dense = threshold(_rates().counting), threshold(_rates().dense)
    return CountingCard(cells=1000, counting=counting, dense=dense, diagnosis=dense)


def add_site(store: Store) -> SiteCard:
    """Commission a site of two nights of simulated slides, with error rates and an adaptation."""
    model = ModelCard.read(store, "models", "tiny", "card.json")
    own, nights, parts, slides = detector().own, [], [], list[SlideCells]()
    assert own is not None
    for number, batch in enumerate(("may", "june")):
        cells = of_site(20 + number, 6, batch=batch)
        part = merged([kept_statistics(own, each, 2, None) for each in cells], own)
        added = nested("groups", part.to_arrays()) | nested("errors", _errors().to_arrays())
        added |= {} if number else nested("labelled", LABELLED.to_arrays())
        parts, slides = [*parts, part], [*slides, *cells]
        nights.append(SiteNight(
            batch=batch, attempt=1, manifest_digest=sha256(batch.encode()).hexdigest(),
            slides=len(part.keys), cells=int(part.n.sum()), negative=("S01", "P1"),
            digest=save_night(store, "lab", arrays_to_bytes(added)),
        ))  # fmt: skip
    known = merged(parts, own)
    evidence = [e for e in (slide_evidence(detector(), known, s, None) for s in slides) if e]
    means = {tap: m + np.linspace(0, 1, m.shape[1]) for tap, m in _classes().means.items()}
    means = {tap: m * [[1.2], [1.0]] for tap, m in means.items()}
    found = _classes().moved(means, SHARE).discriminant()
    normal = replace(site_normal(own, known, evidence), discriminant=found)
    content = arrays_to_bytes(normal.to_arrays() | nested("error_rates", _rates().to_arrays()))
    made = Store(store.url).read_json("detectors", "tiny-v0001", "card.json")
    card = SiteCard(
        created_at=WHEN, digest=digest_of(content), name="lab", version=3, parent=2,
        operation="commission june", commissioned=3, detector="tiny-v0001",
        detector_digest=made["digest"], model="tiny", model_digest=model.digest,
        statistics_version=1, nights=nights, slides=sum(n.slides for n in nights),
        cells=sum(n.cells for n in nights), calibrating_slides=len(evidence),
        false_alarms={"0.05": 0.06}, warnings=["it is simulated"], counting=_counting(),
        adaptation=AdaptationCard(
            scale=1.5, bias=0.5, statistics=True, accepted=True, cells=72, slides=2, by_slide=False,
            loss_before=0.5, loss_after=0.3, accuracy_before=0.8, accuracy_after=0.9, gain=0.2,
            gain_low=0.1, gain_high=0.3,
        ),
    )  # fmt: skip
    save_site(store, card, content)
    return card


def statistics_file(store: Store, path: Path) -> Path:
    """Write a file of two batches of another store, of the model in this one."""
    model = ModelCard.read(store, "models", "tiny", "card.json")
    arrays: Arrays = {}
    given = []
    for number, name in enumerate(("night-aaaa", "night-bbbb")):
        found = shareable(statistics_at(7 + number, "night"), KEY)
        assert found.slides is not None
        found = ClassStatistics(found.taps, of_batch(found.slides, name))
        arrays |= nested(str(number), found.to_arrays())
        given.append(Contribution(
            batch=name, attempt=1, manifest_digest=sha256(name.encode()).hexdigest(),
            images=int(found.n.sum()), held_out=0,
        ))  # fmt: skip
    header = Transfer(
        kind="statistics", model="tiny", model_digest=model.digest, digest="",
        contributions=tuple(given),
    )  # fmt: skip
    write_transfer(str(path), header, arrays)
    return path


def crafted(source: Path, target: Path, change: Callable[[Header, Arrays], object]) -> Path:
    """Change header and arrays of a file as an attacker does, who makes its digest right again."""
    arrays = arrays_from_bytes(source.read_bytes())
    header = json.loads(arrays.pop(HEADER).tobytes())
    change(header, arrays)
    if isinstance(header, dict) and "digest" in header:
        header["digest"] = digest_of(arrays_to_bytes(arrays))
    text = json.dumps(header).encode()
    target.write_bytes(arrays_to_bytes({**arrays, HEADER: np.frombuffer(text, np.uint8)}))
    return target


def bytes_of(store: Store, without: str | None = None) -> str:
    """Compute a digest of all files of a store, by their paths, without folders of that name."""
    total = sha256()
    for path in sorted(Path(store.root).rglob("*")):
        if path.is_file() and without not in path.parts:
            total.update(str(path.relative_to(store.root)).encode() + b"\0")
            total.update(sha256(path.read_bytes()).digest())
    return total.hexdigest()
