"""Describe a version of a laboratory, and what can be trusted there."""

from flows.outcome import Outcome, table
from storage.models.detectors import CountingCard
from storage.models.laboratories import LaboratoryCard
from storage.store import Store
from tasks.words import counted


class LaboratoryOutcome(Outcome):
    """The outcome for a version of a laboratory; ``report`` and ``diagnosis`` are None without
    commissioning.
    """

    changed: str
    laboratory: str
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
        learned = (
            counted(self.nights, "batch"),
            counted(self.slides, "slide"),
            counted(self.cells, "cell"),
        )
        rows: list[tuple[str, object]] = [
            ("laboratory", self.laboratory),
            ("learned", ", ".join(learned)),
            ("called abnormal", self.alarms or "unknown"),
        ]
        rows += [("diagnosis", self.diagnosis)] if self.diagnosis else []
        rows += [("adaptation", self.adaptation)] if self.adaptation else []
        rows += [("false positives", self.false_positives)] if self.false_positives else []
        rows += [("warning", warning) for warning in self.warnings]
        rows += [("report", self.report)] if self.report else []
        return f"{self.changed}\n{table(rows)}"


def false_positives_text(counting: CountingCard) -> str:
    """Describe a laboratory's false-positive rate at the counting threshold to a person."""
    rate = counting.counting.false_positives
    return (
        f"{rate.mean:.3%} ({rate.low:.3%} to {rate.high:.3%}) of healthy cells are counted, "
        f"by {counted(rate.slides, 'negative slide')}"
    )


def laboratory_outcome(
    store: Store, card: LaboratoryCard, changed: str, diagnosis: str | None = None
) -> LaboratoryOutcome:
    """Make the outcome for a version of a laboratory, with a description of the change."""
    report = (*card.folder, "report.html")
    return LaboratoryOutcome(
        changed=changed,
        laboratory=card.label,
        nights=len(card.nights),
        slides=card.slides,
        cells=card.cells,
        false_alarms=card.false_alarms,
        alarms=card.alarms_text,
        diagnosis=diagnosis,
        adaptation=card.adaptation and card.adaptation.text,
        false_positives=card.counting and false_positives_text(card.counting),
        report=store.address(*report) if store.exists(*report) else None,
        warnings=card.warnings,
    )
