"""Answer which Prefect server is configured, and in which of its runs this code is.

Importing Prefect takes 0.6 s, so it is asked only where something may name a server.
"""

import os
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import MOST_SETTINGS

if TYPE_CHECKING:
    from prefect.context import FlowRunContext

# Variables that can name a server; files of the working folder and Prefect's profiles can, too.
NAMING = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")


def server() -> str | None:
    """Return the address of the Prefect server that is configured; None where there is none."""
    if not is_imported() and not _may_be_named():
        return None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def runs_page() -> str | None:
    """Return the address of the page on which Prefect lists runs; None without a server."""
    if server() is None:
        return None
    from prefect.settings import get_current_settings

    return f"{get_current_settings().ui_url}/runs"


def is_imported() -> bool:
    """Return whether this process has imported Prefect; without that it is in no run."""
    return "prefect" in sys.modules


def current_run() -> "FlowRunContext | None":
    """Return the run in which Prefect calls this code; None where Prefect does not."""
    if not is_imported():
        return None
    from prefect.context import FlowRunContext

    return FlowRunContext.get()


def in_deployment() -> bool:
    """Return whether a deployment's run calls this, whose parameters somebody else may choose."""
    run = current_run()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None


def scheduled_start() -> datetime:
    """Return the time for which the run is scheduled; now, where Prefect does not run the flow."""
    run = current_run()
    if run is None or run.flow_run is None or run.flow_run.expected_start_time is None:
        from storage.records import now  # not at once: with it numpy is imported

        return now()
    return run.flow_run.expected_start_time


def _may_be_named() -> bool:
    """Return whether a variable or a file that Prefect reads may name a server."""
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    files = (home / "profiles.toml", Path("prefect.toml"), Path(".env"))
    if any(map(os.environ.get, NAMING)) or any(file.is_file() for file in files):
        return True
    with suppress(OSError), Path("pyproject.toml").open("rb") as project:
        return b"[tool.prefect" in project.read(MOST_SETTINGS)
    return False
