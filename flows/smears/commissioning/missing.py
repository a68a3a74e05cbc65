"""Say which calls are possible at a laboratory, and which need more."""

import numpy as np

from flows.options.flows import Commission
from flows.outcome import shell_command
from flows.smears.jobs.laboratory_slides import laboratory_errors
from flows.smears.stages.chosen_thresholds import errors_of_detector, load_error_rates
from storage.batches.manifests import load_batch
from storage.models import detectors
from storage.parquet import read_table
from storage.reports.tables import PATIENTS, report_path
from storage.store import Store
from tasks.images.listing import each_source
from tasks.smears.laboratories.commissioning import negative_texts, positive_text

LISTED = 5  # patients that a message names


def missing_texts(
    store: Store, options: Commission, card: detectors.DetectorCard, wanted: float
) -> list[str]:
    """Say which calls are possible at a laboratory, and what others need."""
    batch = load_batch(store, options.batch)
    patients = read_table(store, *report_path(batch.name, batch.batch_date, PATIENTS)).to_pylist()
    rates = load_error_rates(store, card)
    if rates is None and any(night.negative for night in card.nights):
        return card.warnings[-1:]
    if rates is None:
        names = [str(row["patient_id"] or row["slide_id"] or "no name") for row in patients]
        listed = ", ".join([*names[:LISTED], *["..."] * (len(names) > LISTED)])
        sources, named = each_source(options.images), ("--laboratory", options.name)
        again = shell_command(
            "commission", *sources, "--batch", batch.name, *named, "--negative", "NAME"
        )
        return [
            f"slides that a microscopist found negative, without which nobody is called: {again}; "
            f"there are {listed}"
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
