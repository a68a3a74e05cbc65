"""Replace the reports of one attempt by those of another, never mixing the two.

Reports are staged first. Before another report on images appears, all made from the earlier one,
and the page, are withdrawn, the last one first: replaced by empty tables and a page that says so.
At every moment a reader finds rows of one attempt by one detector; a batch whose row is withdrawn
is not published. What persons answered stays until it is counted again. A seal, written last, says
that reports are complete.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from storage import kinds as all_kinds
from storage.batches.manifests import Batch
from storage.parquet import checked_schema, read_footer
from storage.reports import tables
from storage.store import Store, StoreError


@dataclass
class Publication:
    """The staged reports of an attempt, by kind; ``made_from`` names a report that stays."""

    store: Store
    batch: Batch
    stages: ExitStack
    made_from: str | None = None
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
        first = next(iter(self.files))
        others = set(self.store.names("reports")) - {*self.files, self.made_from, tables.PERSONS}
        names = [*self.files, *sorted(others)]
        there = {n: digest for n in names if (digest := self._digest(n)) is not None}
        if self.made_from is None:
            changed = there.pop(first, None) != self.digests[first]
        else:
            changed = any(digest != self.digests.get(name) for name, digest in there.items())
        if changed:
            self._withdraw(list(there))
        for name, stage in self.files.items():
            if self._digest(name) != self.digests[name]:
                self.store.reveal(stage, *self._path(name))

    def _withdraw(self, names: list[str]) -> None:
        """Replace reports and pages by empty ones; a full disk must not interrupt this."""
        empty: dict[tuple[str, ...], Path] = {}
        known = all_kinds.tables()
        for name in reversed(names):
            path = self._path(name)
            try:
                if not read_footer(self.store, *path).num_rows:
                    continue
                schema = checked_schema(self.store, *path)
            except StoreError:  # a damaged report goes, too
                if name not in known:
                    raise
                schema = known[name].schema([], [])
            stage = empty[path] = self._stage()
            tables.stage_report(stage, tables.of_attempt(schema, self.batch.attempt), [])
        for kind in all_kinds.kinds():
            for path, content in kind.withdrawn(self.batch.name).items():
                if self.store.exists(*path):
                    empty[path] = self._stage()
                    empty[path].write_bytes(content)
        for path, stage in empty.items():
            self.store.reveal(stage, *path)

    def _stage(self) -> Path:
        return self.stages.enter_context(self.store.stage())

    def _path(self, kind: str) -> tuple[str, ...]:
        return tables.report_path(self.batch.name, self.batch.batch_date, kind)

    def _digest(self, kind: str) -> str | None:
        return tables.report_digest(self.store, self._path(kind))


@contextmanager
def publication(store: Store, batch: Batch, made_from: str | None = None) -> Iterator[Publication]:
    """Stage reports in the block; those that have not appeared at its end are removed."""
    with ExitStack() as stages:
        yield Publication(store, batch, stages, made_from)
