"""Fixtures of every room. Heavy libraries are imported by the fixtures that need them.

A test of a formula would otherwise wait for PyTorch, Prefect, Dask and moto.
"""

import gc
import logging
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

from storage.store import Store
from tests.support.needs import counted, fail_if_required, required

pytest_plugins = [
    "tests.support.servers",
    "tests.support.images",
    "tests.support.models",
    "tests.support.fitted",
    "tests.support.faults.fixtures",
]

# Machines differ and are shared: how long an example takes decides nothing. `make test` tries the
# same examples each time, so that a change fails by its own fault; `make test-all` draws new ones.
settings.register_profile("slidewatch", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("new-examples", deadline=None, derandomize=False)
settings.load_profile("slidewatch")


REQUIRED: pytest.StashKey[frozenset[str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Read once what must not be lacking, and let loggers outlive the streams of a test."""
    config.stash[REQUIRED] = required()
    honest = logging.Handler.handleError

    def handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
        # Prefect writes to the stderr that was captured, and is closed, when it was imported.
        if "closed file" not in str(sys.exc_info()[1]):
            honest(handler, record)

    logging.Handler.handleError = handle_error  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    """Turn a skip for want of what is required into a failure."""
    report: pytest.TestReport = yield
    fail_if_required(report, item.config.stash[REQUIRED])
    return report


def pytest_collection_finish() -> None:
    """Look for no garbage among all that was imported, which takes a part of a second each time."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skipped tests by reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"{len(skipped)} tests were skipped")
        terminalreporter.write_line("\n".join(counted(skipped)))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread, as workers do: threads of BLAS wait on a machine that is shared."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no Prefect server of this machine hear of the tests, and no cache keep their networks."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
            patch.delenv(name, raising=False)
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def speak_again() -> Iterator[None]:
    """End the silence that a command of this process was told to keep."""
    yield
    if "flows.monitoring.console" in sys.modules:
        sys.modules["flows.monitoring.console"].be_quiet(False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make an empty store on a disk."""
    return Store(str(tmp_path / "store"))
