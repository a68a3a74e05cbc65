"""Copies of the golden store."""

import shutil
from pathlib import Path

from storage.store import Store
from tests.system.golden.make_golden import FOLDER


def newest(tmp_path: Path) -> Store:
    versions = {tuple(map(int, path.name[1:].split("."))): path for path in FOLDER.glob("v[0-9]*")}
    shutil.copytree(versions[max(versions)], tmp_path / "store")
    return Store(str(tmp_path / "store"))
