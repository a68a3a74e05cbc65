"""The core works without the wing: a copy without the folders `smears` trains, fits and screens."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.images import write_cells
from tests.support.paths import ROOT
from tests.support.processes import python

PACKAGES = ("flows", "tasks", "storage")
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command in a copy of the packages from which every folder `smears` was removed."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("smears", "__pycache__")
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=ignored)
    assert not list((tmp_path / "copy").rglob("smears"))
    alone = os.environ | {"PYTHONPATH": str(tmp_path / "copy"), "SLIDEWATCH_WORKERS": "2"}
    store = str(tmp_path / "store")

    def command(*words: str, code: int = 0) -> str:
        typed = ("-m", "flows.commands.main", *words, "--store", store)
        done = python(*typed, code=code, cwd=tmp_path, env=alone)
        return done.stdout + done.stderr

    return command


@pytest.mark.slow
def test_the_core_trains_fits_screens_retracts_and_prunes_alone(run: Run, tmp_path: Path) -> None:
    known = write_cells(tmp_path / "known", 12, 12, seed=0)
    write_cells(tmp_path / "night", 3, 12, seed=1, first=100)
    run("train", str(known), "--epochs", "1")
    assert "added" in run("fit", str(known), "--batch", "first")
    write_cells(tmp_path / "more", 2, 12, seed=3, first=300)
    assert "added" in run("fit", str(tmp_path / "more"), "--batch", "second")
    screened = run("screen", str(tmp_path / "night"), "--batch", "night")
    assert "36: 36 scored" in screened
    assert "published before" in run("screen", str(tmp_path / "night"), "--batch", "night")
    counted = run("query", "SELECT count(*) AS n, count(abnormality) AS scored FROM images")
    assert counted.count("36") == 2
    assert "nothing is damaged" in run("verify")
    assert "taken out" in run("retract", "--batch", "second")
    assert "nothing" in run("prune").lower()
    inbox = write_cells(tmp_path / "inbox", 1, 12, seed=2, first=200)
    assert "12: 12 scored" in run("nightly", "--inbox", str(inbox), "--settle", "0")
    assert "are not installed" in run("commission", str(tmp_path / "night"), code=2)
