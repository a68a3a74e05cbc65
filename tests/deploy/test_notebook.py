"""The notebook that analysts begin with."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from storage.store import Store
from tests.support.reading import FLAGGED, night

NOTEBOOK = Path(__file__).parents[2] / "deploy" / "notebooks" / "nights.py"


def test_the_notebook_runs_over_the_nights_of_a_store(
    store_with_model: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("SLIDEWATCH_STORE", store_with_model.root)
    for name in ("before", "night"):
        night(store_with_model, tmp_path / name, name=name)
    spec = importlib.util.spec_from_file_location("nights", NOTEBOOK)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, found = module.app.run()
    nights = found["nights"].to_pylist()
    assert [(row["batch"], row["images"], row["for_review"]) for row in nights] == [
        ("before", 24, FLAGGED),
        ("night", 24, FLAGGED),
    ]
    assert {name: len(shares) for name, shares in found["trends"].items()} == {
        "positive patients": 2, "images for review": 2, "slides shifted": 2, "images failed": 2,
    }  # fmt: skip
    assert found["trends"]["images for review"] == [FLAGGED / 24] * 2
    assert found["trends"]["positive patients"] == [0.5, 0.5]
    assert found["night"].value == "night"
    assert found["cells"].num_rows == 24
    assert [row["slide_id"] for row in found["slides"].to_pylist()] == ["slide 0", "slide 1"]
