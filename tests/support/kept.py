"""Folders that take long to make: made once, and kept from run to run under a digest.

The processes of a run share them, so nobody changes them; who writes takes a copy.
"""

import fcntl
import inspect
import shutil
import sysconfig
import time
from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

from tests.support.paths import ROOT

KEPT = ROOT / ".pytest_cache" / "kept"
UNUSED = 86_400.0  # seconds after which a folder of other code is removed


@cache
def _of_today(maker: str) -> str:
    """Digest all that may change a folder: sources, what calls them here, and libraries."""
    libraries = Path(sysconfig.get_paths()["purelib"]).glob("*.dist-info")
    total = sha256("\n".join(sorted(path.name for path in libraries)).encode())
    for room in ("flows", "tasks", "storage", "tests/support"):
        for path in sorted((ROOT / room).rglob("*.py")):
            total.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    total.update(Path(maker).read_bytes())
    return total.hexdigest()[:16]


def kept(name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder of this name, made by the first process that asks for it."""
    maker = inspect.getfile(make.func if isinstance(make, partial) else make)
    folder = KEPT / f"{name}-{_of_today(maker)}"
    KEPT.mkdir(parents=True, exist_ok=True)
    made = folder / ".made"
    with (KEPT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed meanwhile
            folder.mkdir()
            make(folder)
        made.touch()
        for other in KEPT.glob(f"{name}-*/.made"):
            if time.time() - other.stat().st_mtime > UNUSED:
                shutil.rmtree(other.parent)
    return folder
