"""Fixtures of flows."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage.store import Store

if TYPE_CHECKING:
    from tests.support.shards import Night


@pytest.fixture
def night(store_with_model: Store, cells: Path) -> "Night":
    """A night of three shards in a store of one's own, none of which is extracted."""
    from tests.support.shards import start

    return start(store_with_model, cells)
