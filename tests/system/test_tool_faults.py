"""Kills of commands that tidy up, learn, import or export.

After each kill nothing that stays is lost and `verify` finds no damage; the same command, run
again, leaves the same bytes as an undisturbed run.
"""

import shutil

import pyarrow as pa
import pytest

from flows.commands.status import verify
from flows.options.tools import Verify
from flows.settings import Settings
from storage.reports.tables import published_batch, rows_by_shard
from storage.smears.answers import SCHEMA, Labels, save_labels
from storage.store import Store
from tests.support.faults.calls import Fault
from tests.support.faults.counts import Counts
from tests.support.faults.runs import Run, files_of
from tests.support.faults.trials import Bench, judge
from tests.support.models import CLASSES

PRUNING = Run("prune", {"features": 30, "reports": 35, "apply": True})


@pytest.fixture(scope="module")
def answered(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The bench on a store with a screened night of which a cell was answered."""
    bench.reset()
    ended = bench.runs.run(bench.screening)
    assert ended.code == 0, ended.error
    store = Store(bench.runs.store)
    _, rows = next(rows_by_shard(store, published_batch(store, "night")))
    cell = rows.to_pylist()[0]
    row = {name: cell.get(name) for name in SCHEMA.names} | {"answer": "other"}
    save_labels(store, Labels("night", 1, pa.Table.from_pylist([row], SCHEMA)))
    template = tmp_path_factory.mktemp("answered") / "store"
    shutil.copytree(store.root, template)
    return Bench(bench.runs, bench.folder, template)


def kill(bench: Bench, run: Run, counts: Counts, points: list[int]) -> None:
    """Kill a run before each of its calls, look at what is left, and run it again."""
    calm = bench.calm(run)
    stays = {
        path: digest
        for path, digest in files_of(bench.template).items()
        if calm.files.get(path) == digest
    }
    for point in points:
        bench.reset()
        bench.runs.run(run, Fault("die", point))
        found = ["lost"] if stays.items() - files_of(bench.runs.store).items() else []
        damaged = verify(Verify(), Settings(store=bench.runs.store)).damaged
        found += ["damaged"] if damaged else []
        found += judge(bench, run, bench.runs.run(run))
        counts.add(run.action, f"{point} ({calm.ended.calls[point - 1]}) {damaged}", *found)


@pytest.mark.slow
def test_prune_may_be_killed_at_any_change_of_the_store(answered: Bench) -> None:
    counts, calm = Counts("prune --apply, dying"), answered.calm(PRUNING)
    gone = files_of(answered.template).keys() - calm.files.keys()
    assert {path.split("/")[0] for path in gone} == {"features", "reports"}
    kill(answered, PRUNING, counts, calm.points())
    counts.check()


def test_review_import_may_be_killed_at_each_fourth_change_of_the_store(answered: Bench) -> None:
    sheet, counts = answered.runs.root / "sheet.csv", Counts("review import, dying")
    store = Store(str(answered.template))
    _, rows = next(rows_by_shard(store, published_batch(store, "night")))
    cells = rows["image_id"].to_pylist()[1:3]
    lines = [f"{cell},night,{word}" for cell, word in zip(cells, CLASSES, strict=True)]
    sheet.write_text("\n".join(["image_id,batch,answer", *lines]))
    run = Run("import", {"file": str(sheet)})
    calm = answered.calm(run)
    assert "labels/night/0002.parquet" in calm.files
    kill(answered, run, counts, calm.points()[::4])
    counts.check()


@pytest.mark.slow
def test_review_apply_may_be_killed_at_any_call_and_leaves_a_manifest_or_none(
    answered: Bench,
) -> None:
    answered.reset()
    to = answered.runs.root / "labels.parquet"
    run = Run("apply", {"to": str(to), "batch": "night"})
    calm = answered.runs.run(run)
    content = to.read_bytes()
    assert calm.calls
    for point in range(1, len(calm.calls) + 1):
        to.unlink()
        answered.runs.run(run, Fault("die", point))
        assert not to.exists() or to.read_bytes() == content
        to.unlink(missing_ok=True)
        assert answered.runs.run(run).code == 0
        assert to.read_bytes() == content
    to.unlink()


@pytest.mark.slow
def test_commission_may_be_killed_at_any_change_of_the_store(commissioned: Bench) -> None:
    run, counts = commissioned.commissioning, Counts("commission, dying")
    kill(commissioned, run, counts, commissioned.calm(run).points())
    counts.check()
