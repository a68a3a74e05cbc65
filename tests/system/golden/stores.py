"""Copies of the golden stores, and what is asserted of all."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.reports.tables import report_path
from storage.store import Store, StoreError
from tests.system.golden import make_golden as golden
from tests.system.golden import slides

FOLDER = Path(golden.__file__).parent
VERSIONS = sorted((folder.name for folder in FOLDER.glob("v*")), key=lambda name: int(name[1:]))
PATH = report_path("night", golden.DAY)


STRANGE = pytest.mark.parametrize(
    "strange", [{}, {"surprise": 1}], ids=["same fields", "a new field"]
)


def copied(version: str, tmp_path: Path) -> Store:
    shutil.copytree(FOLDER / version, tmp_path / "store")
    return Store(str(tmp_path / "store"))


def copies(versions: Sequence[str]) -> Any:
    """Make a fixture: a copy of each of these golden stores in turn."""

    @pytest.fixture(params=versions)
    def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        return copied(request.param, tmp_path)

    return copy


def key(old: Store) -> str:
    """The key of the screening that a golden store holds."""
    return slides.KEY if old.exists("laboratories") else "golden"


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name, strict=True)


def assert_newer_is_refused(
    store: Store, path: str, read: Callable[[Store], object], strange: dict[str, int]
) -> None:
    path = path.format(key=key(store))
    read(store)
    data = store.read_json(path)
    store.write_json(data | {"schema_version": 99} | strange, path)
    with pytest.raises(StoreError, match=f"{re.escape(path)} was written by a newer slidewatch"):
        read(store)
