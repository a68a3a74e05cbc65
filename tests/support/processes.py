"""Python in processes of their own."""

import subprocess
import sys
from typing import Any


def python(
    *words: object, code: int | None = 0, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run Python with these words to its end, which must have this exit code if one is given."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert code in (None, done.returncode), f"{done.returncode}: {done.stdout}{done.stderr}"
    return done
