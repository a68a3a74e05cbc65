"""Stores on each kind of filesystem."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from storage.store import Store


@pytest.fixture(params=["local", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store: on a disk, on S3, and on a filesystem that can do no more than any other."""
    if request.param == "local":
        yield Store(str(tmp_path / "store"))
        return
    if request.param == "s3":
        yield Store(f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}/store")
        return
    fs = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    yield Store(f"memory:/{root}")
    if fs.exists(root):
        fs.rm(root, recursive=True)


@pytest.fixture(params=["local", "s3"])
def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store that several processes may use at once."""
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    return Store(f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}/store")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of files and folders that are synced from now on, in order."""
    seen: list[str] = []
    fsync = os.fsync

    def watch(number: int) -> None:
        fsync(number)
        seen.append(os.path.realpath(f"/proc/self/fd/{number}"))

    monkeypatch.setattr(os, "fsync", watch)
    return seen
