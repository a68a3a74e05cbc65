"""Fixtures of flows."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from storage.store import Store
from tests.support.fields import rendered

if TYPE_CHECKING:
    from tests.support.shards import Night


@pytest.fixture
def night(store_with_model: Store, cells: Path) -> "Night":
    """A night of three shards in a store of one's own, none of which is extracted."""
    from tests.support.shards import start

    return start(store_with_model, cells)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph of a field with twelve cells, some of them parasitized."""
    path = tmp_path / "a field, seen.png"
    Image.fromarray(rendered(0, cells=12).pixels).resize((1120, 800)).save(path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command as a person types it: its exit code, standard output and error."""
    from flows.commands.main import main

    def typed(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(words))
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return typed
