"""Where a Prefect server is found, and that Prefect is not imported where there is none."""

import os
from pathlib import Path

import pytest

from tests.support.processes import python

URL = "http://prefect.example/api"
ASK = """
import sys
from flows.prefect.runs import server
print(server() is not None, "prefect" in sys.modules)
"""


@pytest.mark.parametrize(
    ("file", "text", "variable", "found"),
    [
        (None, "", None, "False False"),
        (None, "", "PREFECT_API_URL", "True True"),
        (".prefect/profiles.toml", f'[profiles.x]\nPREFECT_API_URL = "{URL}"', None, "False True"),
        (
            ".prefect/profiles.toml",
            f'active = "x"\n[profiles.x]\nPREFECT_API_URL = "{URL}"',
            None,
            "True True",
        ),
        ("prefect.toml", f'[api]\nurl = "{URL}"', None, "True True"),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"', None, "True True"),
        ("pyproject.toml", "[project]", None, "False False"),
        ("pyproject.toml", "[damaged", None, "False False"),
    ],
)
def test_a_server_is_found_where_prefect_would_find_it(
    tmp_path: Path, file: str | None, text: str, variable: str | None, found: str
) -> None:
    """And where nothing can name one, Prefect is not even imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {"HOME": str(tmp_path)} | ({variable: URL} if variable else {})
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    done = python("-c", ASK, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == found
