"""Replace the reports of one attempt by those of another, never mixing the two.

All reports are staged before the first one appears. If the batch has earlier reports, those on
batches, patients, slides and fields, and the page, are withdrawn: replaced by empty tables and a
page that says so. Then one rename replaces the report on images, and the others follow. So at every
moment all rows of a batch that a reader finds come from one attempt by one detector, and a batch
whose row is withdrawn is not published. The seal, written last, says that the reports are complete.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from storage.batches.manifests import Batch
from storage.parquet import read_footer
from storage.reports import pages, tables
from storage.reports.schemas import batches, fields, patients, slides
from storage.store import Store

SCHEMAS: Mapping[str, Callable[[], pa.Schema]] = {
    tables.FIELDS: fields.field_schema,
    tables.SLIDES: slides.slide_schema,
    tables.PATIENTS: patients.patient_schema,
    tables.BATCHES: batches.batch_schema,
}
APPEARING = (tables.IMAGES, tables.FIELDS, tables.SLIDES, tables.PATIENTS, tables.BATCHES)


@dataclass
class Publication:
    """The staged reports of an attempt at a batch: their files and sha256, by kind."""

    store: Store
    batch: Batch
    stages: ExitStack
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
        """Stage the report of a kind, part by part."""
        stage = self._stage()
        self.digests[kind] = tables.stage_report(
            stage, tables.of_attempt(schema, self.batch.attempt), parts
        )
        self.files[kind] = stage

    def appear(self) -> None:
        """Let all reports appear, except those that are there already with equal bytes."""
        before = {kind: tables.report_digest(self.store, self._path(kind)) for kind in APPEARING}
        other = [kind for kind in APPEARING if before[kind] not in (None, self.digests.get(kind))]
        if any(self._rows(kind) for kind in other):
            self._withdraw([kind for kind in SCHEMAS if before[kind] is not None])
        for kind in APPEARING:
            if (
                kind in self.files
                and tables.report_digest(self.store, self._path(kind)) != self.digests[kind]
            ):
                self.store.reveal(self.files[kind], *self._path(kind))

    def _withdraw(self, kinds: list[str]) -> None:
        """Replace reports and the page by empty ones; a full disk must not interrupt this."""
        empty: dict[tuple[str, ...], Path] = {}
        for kind in reversed(kinds):
            if self._rows(kind):
                stage = empty[self._path(kind)] = self._stage()
                tables.stage_report(
                    stage, tables.of_attempt(SCHEMAS[kind](), self.batch.attempt), []
                )
        page = pages.page_path(self.batch.name)
        if self.store.exists(*page):
            empty[page] = self._stage()
            empty[page].write_bytes(pages.withdrawn_page(self.batch.name))
        for path, stage in empty.items():
            self.store.reveal(stage, *path)

    def _stage(self) -> Path:
        return self.stages.enter_context(self.store.stage())

    def _path(self, kind: str) -> tuple[str, ...]:
        return tables.report_path(self.batch.name, self.batch.batch_date, kind)

    def _rows(self, kind: str) -> int:
        count: int = read_footer(self.store, *self._path(kind)).num_rows
        return count


@contextmanager
def publication(store: Store, batch: Batch) -> Iterator[Publication]:
    """Stage reports in the block; those that have not appeared at its end are removed."""
    with ExitStack() as stages:
        yield Publication(store, batch, stages)
