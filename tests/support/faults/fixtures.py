"""A store with a model and a detector, small enough that hundreds of runs are made on copies."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.store import Store
from tests.support.faults.runs import Run, forking
from tests.support.faults.trials import LABORATORY, Bench
from tests.support.images import write_cells

SHARD = 6


@pytest.fixture(scope="session")
def bench(_store_with_model: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench on a local disk."""
    from PIL import Image

    from tests.support.fields import field_of

    folder = tmp_path_factory.mktemp("faults")
    for name, patients, cells, first in (
        ("fitted", 10, 6, 20), ("more", 3, 4, 40), ("night", 2, 6, 60),
    ):  # fmt: skip
        _write(folder / name, patients, cells, first)
    (folder / "fields").mkdir()
    for number, places in enumerate([((90, 90), (220, 160)), ((120, 150),)]):
        Image.fromarray(field_of(*places)).save(folder / "fields" / f"field-{number}.png")
    with forking(folder / "scratch", folder / "root", shard_rows=SHARD) as runs:
        runs.reset(Path(_store_with_model.root))
        runs.warm()
        ended = runs.run(Run("fit", {"images": str(folder / "fitted"), "batch": "first"}))
        assert ended.code == 0, ended.text
        shutil.copytree(runs.store, folder / "template")
        yield Bench(runs, folder, folder / "template")


@pytest.fixture(scope="session")
def commissioned(bench: Bench) -> Bench:
    """The bench on a store with a laboratory of two nights."""
    _write(bench.folder / "many", 8, 36, 100)
    _write(bench.folder / "third", 2, 12, 70)
    bench.reset()
    for action, night, options in (
        ("fit", "many", {}), ("commission", "third", {"laboratory": LABORATORY}),
        ("commission", "more", {"laboratory": LABORATORY}),
    ):  # fmt: skip
        given = {"images": str(bench.folder / night), "batch": night, **options}
        ended = bench.runs.run(Run(action, given))
        assert ended.code == 0, ended.error
    shutil.copytree(bench.runs.store, bench.folder / "commissioned")
    return Bench(bench.runs, bench.folder, bench.folder / "commissioned")


def _write(folder: Path, patients: int, cells: int, first: int) -> None:
    write_cells(folder, patients, cells, seed=first, first=first)
