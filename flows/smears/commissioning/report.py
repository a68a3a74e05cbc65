"""Report a version of a laboratory: which results can be believed there."""

import numpy as np

from flows.jobs.libraries import OF_A_PAGE, exact
from flows.outcome import Outcome, table
from flows.smears.commissioning.laboratory import Laboratory
from flows.smears.commissioning.versions import Version
from flows.smears.stages.chosen_thresholds import load_error_rates
from storage.models import classifiers, detectors
from storage.parquet import write_table
from storage.store import Store
from tasks.reports.image_columns import PARASITIZED
from tasks.smears.counting.call import percent_text
from tasks.smears.laboratories.adaptation import PARASITES
from tasks.smears.laboratories.commissioning import (
    NOT_EXAMINED,
    OWN,
    POPULATION,
    Figure,
    caught,
    counting_figures,
    diagnosis,
    figures_table,
)
from tasks.smears.visualisation.laboratory_page import laboratory_page
from tasks.words import counted


def write_report(lab: Laboratory, version: Version) -> str:
    """Write a version's report as a page and a table; return whether its diagnosis is accepted."""
    card, parent, learned = version.card, lab.detector, version.card.learned
    assert learned is not None
    assert version.detector.reference is not None
    slides = [judged.evidence for judged in version.judged]
    figures = [*version.alarms, *caught(lab.own, version.detector.reference, slides)]
    verdict, examined = _diagnosis(version, lab.model)
    figures += examined
    fitted = load_error_rates(lab.store, parent)
    figures += counting_figures(version.rates, fitted) if version.rates and fitted else []
    page = laboratory_page(
        card.name,
        figures,
        verdict,
        warnings=card.warnings,
        adaptation=card.adaptation.text if card.adaptation else "",
        lists={
            "facts": {
                "nights": f"{len(learned.nights):,}",
                "slides": f"{learned.slides:,}",
                "cells": f"{learned.cells:,}",
                "slides left out, one at a time": f"{len(version.judged):,}",
                "diagnosis": verdict,
            },
            "limits": _limits(card, parent),
            "made_by": {
                "nights": ", ".join(night.batch for night in card.nights),
                "detector": f"{card.name}, sha256 {card.digest}",
                "made from": f"{parent.name}, sha256 {parent.digest}",
                "model": f"{card.model}, sha256 {card.model_digest}",
                "versions": ", ".join(
                    f"{name} {number}" for name, number in exact(OF_A_PAGE).items()
                ),
            },
        },
    )
    folder = ("detectors", card.name)
    write_table(lab.store, figures_table(figures, card.name), *folder, "report.parquet")
    lab.store.write_bytes(page.encode(), *folder, "report.html")
    return verdict


def _limits(card: detectors.DetectorCard, parent: detectors.DetectorCard) -> dict[str, str]:
    """Describe the limits of detection at the laboratory and elsewhere."""
    if card.counting is None or parent.counting is None:
        return {}
    whose = {OWN: card.counting, POPULATION: parent.counting}
    limits = {name: each.counting.limit_of_detection for name, each in whose.items()}
    return {name: "none" if x is None else percent_text(100 * x) for name, x in limits.items()}


def _diagnosis(version: Version, model: classifiers.ModelCard) -> tuple[str, list[Figure]]:
    classes = model.classes
    if version.trial and version.trial.accepted:
        return diagnosis(version.trial.confusion, PARASITES)
    if PARASITIZED not in classes or not version.judged:
        return NOT_EXAMINED, []
    confusion = np.stack([judged.confusion for judged in version.judged])
    return diagnosis(confusion, classes.index(PARASITIZED))


class LaboratoryOutcome(Outcome):
    """The outcome for a version of a laboratory; ``report`` and ``diagnosis`` are None without
    commissioning.
    """

    changed: str
    detector: str
    nights: int
    slides: int
    cells: int
    false_alarms: dict[str, float]
    alarms: str
    diagnosis: str | None
    adaptation: str | None = None
    false_positives: str | None = None
    report: str | None
    warnings: list[str]

    def _text(self) -> str:
        return f"{self.changed}\n{table(self.rows())}"

    def rows(self) -> list[tuple[str, object]]:
        """List the figures of the version as names and texts."""
        learned = (
            counted(self.nights, "batch"),
            counted(self.slides, "slide"),
            counted(self.cells, "cell"),
        )
        rows: list[tuple[str, object]] = [
            ("detector", self.detector),
            ("learned", ", ".join(learned)),
            ("called abnormal", self.alarms or "unknown"),
        ]
        rows += [("diagnosis", self.diagnosis)] if self.diagnosis else []
        rows += [("adaptation", self.adaptation)] if self.adaptation else []
        rows += [("false positives", self.false_positives)] if self.false_positives else []
        rows += [("warning", warning) for warning in self.warnings]
        return rows + ([("report", self.report)] if self.report else [])


def false_positives_text(counting: detectors.CountingCard) -> str:
    """Describe a laboratory's false-positive rate at the counting threshold to a person."""
    rate = counting.counting.false_positives
    return (
        f"{rate.mean:.3%} ({rate.low:.3%} to {rate.high:.3%}) of healthy cells are counted, "
        f"by {counted(rate.slides, 'negative slide')}"
    )


def laboratory_outcome(
    store: Store, card: detectors.DetectorCard, changed: str, diagnosis: str | None = None
) -> LaboratoryOutcome:
    """Make the outcome for a version of a laboratory, with a description of the change."""
    report, learned = ("detectors", card.name, "report.html"), card.learned
    assert learned is not None
    return LaboratoryOutcome(
        changed=changed,
        detector=card.name,
        nights=len(learned.nights),
        slides=learned.slides,
        cells=learned.cells,
        false_alarms=learned.false_alarms,
        alarms=learned.alarms_text,
        diagnosis=diagnosis,
        adaptation=card.adaptation and card.adaptation.text,
        false_positives=card.counting and false_positives_text(card.counting),
        report=store.address(*report) if store.exists(*report) else None,
        warnings=card.warnings,
    )
