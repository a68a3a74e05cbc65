"""Report a version of a laboratory: its figures, and which calls are possible there."""

import numpy as np

from flows.jobs.libraries import OF_A_PAGE, exact
from flows.options.flows import Commission
from flows.outcome import Outcome, shell_command, table
from flows.smears.commissioning.laboratory import Laboratory
from flows.smears.commissioning.versions import Version
from flows.smears.jobs.laboratory_slides import laboratory_errors
from flows.smears.stages.chosen_thresholds import errors_of_detector, load_error_rates
from storage.batches.manifests import load_batch
from storage.models import classifiers, detectors
from storage.parquet import write_table
from storage.reports.tables import PATIENTS, PERSONS, find_report, read_report
from storage.store import Store
from tasks.images.listing import each_source
from tasks.reports.image_columns import PARASITIZED
from tasks.smears.counting.call import Call, percent_text
from tasks.smears.laboratories.adaptation import PARASITES
from tasks.smears.laboratories.commissioning import (
    NOT_EXAMINED,
    OWN,
    POPULATION,
    LaboratoryFigure,
    caught,
    counting_figures,
    diagnosis,
    figures_table,
    negative_texts,
    positive_text,
)
from tasks.smears.reports.called_cells import patient_of
from tasks.smears.visualisation.laboratory_page import laboratory_page
from tasks.words import counted

LISTED = 5  # patients that a message names


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
    if card.counting is None or parent.counting is None:
        return {}
    whose = {OWN: card.counting, POPULATION: parent.counting}
    limits = {name: each.counting.limit_of_detection for name, each in whose.items()}
    return {name: "none" if x is None else percent_text(100 * x) for name, x in limits.items()}


def _diagnosis(
    version: Version, model: classifiers.ModelCard
) -> tuple[str, list[LaboratoryFigure]]:
    classes = model.classes
    if version.trial and version.trial.accepted:
        return diagnosis(version.trial.confusion, PARASITES)
    if PARASITIZED not in classes or not version.judged:
        return NOT_EXAMINED, []
    confusion = np.stack([judged.confusion for judged in version.judged])
    return diagnosis(confusion, classes.index(PARASITIZED))


class LaboratoryOutcome(Outcome):
    """A version of a laboratory; ``report`` and ``diagnosis`` are None without commissioning."""

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


def laboratory_outcome(
    store: Store, card: detectors.DetectorCard, changed: str, diagnosis: str | None = None
) -> LaboratoryOutcome:
    """Make the outcome for a version of a laboratory, with a description of the change."""
    report, learned = ("detectors", card.name, "report.html"), card.learned
    assert learned is not None
    rate = card.counting and card.counting.counting.false_positives
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
        false_positives=rate
        and f"{rate.mean:.3%} ({rate.low:.3%} to {rate.high:.3%}) of healthy cells are counted, by "
        f"{counted(rate.slides, 'negative slide')}",
        report=store.address(*report) if store.exists(*report) else None,
        warnings=card.warnings,
    )


def missing_texts(
    store: Store, options: Commission, card: detectors.DetectorCard, wanted: float
) -> list[str]:
    """Say which calls are possible at a laboratory, and what others need."""
    batch = load_batch(store, options.batch)
    patients = read_report(store, batch, PATIENTS).to_pylist()
    rates = load_error_rates(store, card)
    if rates is None and any(night.negative for night in card.nights):
        return card.warnings[-1:]
    if rates is None:
        answered = find_report(store, batch, PERSONS).to_pylist()
        ill = {patient_of(row) for row in answered if row["person_call"] == Call.POSITIVE}
        others = [row for row in patients if patient_of(row) not in ill]
        names = [str(row["patient_id"] or row["slide_id"] or "no name") for row in others]
        listed = ", ".join([*names[:LISTED], *["..."] * (len(names) > LISTED)])
        sources, named = each_source(options.images), ("--laboratory", options.name)
        again = shell_command(
            "commission", *sources, "--batch", batch.name, *named, "--negative", "NAME"
        )
        return [
            f"slides that a microscopist found negative, without which nobody is called: {again}; "
            f"there are {listed or 'none: persons found parasites in all'}"
        ]
    read = [row["cells_read"] for row in patients if row["cells_read"]]
    possible = positive_text(rates.counting, int(np.median(read)) if read else 0)
    if card.adaptation and card.adaptation.accepted and card.adaptation.statistics:
        return [possible]  # the errors of its nights were counted again, and not kept
    known, _ = laboratory_errors(store, options.name, card.nights)
    return [
        possible,
        *negative_texts(errors_of_detector(store, card), known, rates.counting, wanted),
    ]
