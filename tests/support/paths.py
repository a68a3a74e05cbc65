"""Where the project lies, and the real images, if they are here."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SLIDEWATCH_DATA", ROOT.parent / "shared" / "data"))
