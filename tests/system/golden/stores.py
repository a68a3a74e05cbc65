"""Copies of the golden stores."""

import shutil
from pathlib import Path

from storage.store import Store
from tests.system.golden.make_golden import FOLDER

VERSIONS = sorted(
    (folder.name for folder in FOLDER.glob("v[0-9]*")),
    key=lambda name: [int(number) for number in name[1:].split(".")],
)


def copied(version: str, tmp_path: Path) -> Store:
    shutil.copytree(FOLDER / version, tmp_path / "store")
    return Store(str(tmp_path / "store"))


def newest(tmp_path: Path) -> Store:
    return copied(VERSIONS[-1], tmp_path)
