"""Compose slides from cells of unseen patients, with the error rates of others."""

import numpy as np
import pyarrow as pa

from flows.jobs.evaluation.treated import Run
from flows.jobs.fitting.unseen import key_of, out_of_fold
from flows.monitoring.console import tell
from flows.stages.counting.chosen_thresholds import errors_of_detector, load_error_rates
from tasks.detector.probabilities import log_odds
from tasks.evaluation.composed import KnownCells, compose, composed_metrics
from tasks.evaluation.metrics import Metric
from tasks.evaluation.parts import FILE
from tasks.evaluation.scored import ScoredPart
from tasks.reports.image_columns import PARASITIZED


def composed_slides(
    run: Run, test: ScoredPart, images: pa.Table, seed: int
) -> tuple[list[Metric], pa.Table | None]:
    """Compose slides from ``images`` of unseen patients, scored as ``test``.

    There are no rows if error rates are unknown.
    """
    card = run.model
    rates = load_error_rates(run.store, run.detector)
    counts = errors_of_detector(run.store, run.detector)
    if rates is None or counts is None or run.detector.counting is None:
        tell(f"detector {run.detector.name} knows no error rates: no slide is composed")
        return [], None
    scored = test.forms[FILE]
    place = card.classes.index(PARASITIZED)
    whose = images.select(["patient_id", "slide_id"]).take(pa.array(scored.rows)).to_pylist()
    cells = _with_folds(
        run,
        KnownCells(
            log_odds(scored.logits, card.temperature, place),
            np.asarray(scored.label == place),
            [key_of(each["patient_id"], each["slide_id"], "") for each in whose],
        ),
    )
    slides = compose(cells, counts, run.detector.counting.cells, seed)
    return composed_metrics(slides, counts, rates, card.name, seed), slides


def _with_folds(run: Run, cells: KnownCells) -> KnownCells:
    """Add the cells of other patients that the network of a fold has not seen."""
    folds = out_of_fold(run.store, run.model)
    if folds is None:
        return cells
    known = set(cells.patients)
    names = [name and key_of(name, None, "") for name in folds.patients.tolist()]
    new = np.asarray([name is not None and name not in known for name in names], bool)
    return KnownCells(
        np.concatenate([cells.log_odds, folds.log_odds[new]]),
        np.concatenate([cells.parasitized, folds.parasitized[new]]),
        [*cells.patients, *(name for name in names if name is not None and name not in known)],
    )
