"""Another detector in the place of the one that comes with slidewatch."""

from pathlib import Path

import pytest

from storage.models import shipped
from storage.store import Store


def ship(patch: pytest.MonkeyPatch, folder: Path | str) -> None:
    """Let the package come with the models and detectors of a store."""
    patch.setattr(shipped, "FOLDER", Path(folder))
    patch.setattr(shipped, "DIGEST", shipped.digest_of_files(Store(str(folder))))
