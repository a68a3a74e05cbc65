"""Tell of readings: how many, how fast, how far readers agree, and what the machine has missed."""

from itertools import combinations

from pydantic import BaseModel

from flows.commands.review.session import Session
from tasks.reading.agreement import Figure, consensus, discordant, kappa, sensitivity


class ToldFigure(BaseModel):
    """A figure of the readings, with its 95% interval where it has one, of so many cells."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    cells: int

    @property
    def text(self) -> str:
        """Write the figure for a person."""
        if self.value is None:
            return "not known yet"
        if self.low is None:
            return f"{self.value:.3g}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}; {self.cells:,} cells)"


def figures(session: Session) -> list[ToldFigure]:
    """Measure the readings of a session."""
    readings = session.all_said()
    groups = {image: _patient(row) for image, row in session.cells.items()}
    found = [
        ToldFigure(
            name=f"{reader}: seconds a cell, of {len(said):,} of {len(session.cells):,} read",
            value=session.seconds(reader),
            cells=len(said),
        )
        for reader, said in readings.items()
    ]
    for one, two in combinations(readings, 2):
        agreed = kappa(readings[one], readings[two], groups)
        found.append(_told(f"{one} and {two}: Cohen's kappa", agreed))
    truth = consensus(readings)
    classes = {image: said for image, said in truth.items() if said in session.card.classes}
    diagnosed = {image: str(session.cells[image]["diagnosis"]) for image in session.cells}
    found.append(_told("persons and the machine: Cohen's kappa", kappa(classes, diagnosed, groups)))
    missed = sensitivity(
        truth,
        diagnosed,
        {image: bool(row["flagged"]) for image, row in session.cells.items()},
        session.sample.of,
        groups,
        session.card.classes[0],
    )
    name = f"{session.card.classes[0]} cells that were called so or flagged, of all in the batch"
    found.append(_told(name, missed))
    differing = len(discordant(readings))
    found.append(
        ToldFigure(name="cells on which readers differ", value=float(differing), cells=differing)
    )
    return found


def _patient(row: dict[str, object]) -> str | None:
    patient = row["patient_id"]
    return None if patient is None else str(patient)


def _told(name: str, figure: Figure | None) -> ToldFigure:
    if figure is None:
        return ToldFigure(name=name, value=None, cells=0)
    return ToldFigure(
        name=name, value=figure.value, low=figure.low, high=figure.high, cells=figure.cells
    )
