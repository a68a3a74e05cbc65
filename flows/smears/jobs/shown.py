"""Find what the page of a batch shows among the rows of its published report on images."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.screened import Screened
from storage.parquet import iterate_groups
from storage.reports.tables import report_path
from tasks.smears.reports.called_cells import COLUMNS, CalledCells
from tasks.smears.visualisation.highlights import ROW, Highlights, columns


@dataclass(frozen=True)
class ShownJob:
    """A row ``group`` of a batch's report on images, which begins at a row of the batch.

    From the abnormality ``limit`` on, an image is abnormal; ``cells`` collects those of patients.
    """

    screened: Screened
    group: int
    start: int
    limit: float
    cells: CalledCells


def find_shown(job: ShownJob) -> tuple[Highlights, CalledCells]:
    """Collect the rows to show."""
    screened, batch = job.screened, job.screened.batch
    highlights = Highlights(screened.model.classes, job.limit)
    cells = job.cells.empty()
    wanted = list(dict.fromkeys([*columns(screened.model.classes), *COLUMNS]))
    images, start = report_path(batch.name, batch.batch_date), job.start
    for rows in iterate_groups(screened.store, *images, columns=wanted, groups=[job.group]):
        rows = rows.append_column(ROW, pa.array(np.arange(start, start + rows.num_rows)))
        start += rows.num_rows
        highlights.count(rows)
        cells.count(rows)
    return highlights, cells
