"""A test that lacks what it needs is counted, and fails where that is asked for."""

import pytest

from tests.support.needs import fail_if_required, reason


def skipped(why: str) -> pytest.TestReport:
    where = ("test_it.py", 3, f"Skipped: {why}")
    return pytest.TestReport("test_it", ("test_it.py", 3, "it"), {}, "skipped", where, "setup")


def test_what_is_asked_for_may_not_be_lacking() -> None:
    lacks_browser, lacks_gpu = (skipped(reason(need, "no")) for need in ("chromium", "gpu"))
    for report in (lacks_browser, lacks_gpu):
        fail_if_required(report, frozenset({"chromium"}))
    assert lacks_gpu.skipped
    assert lacks_browser.failed
    assert "asks for chromium: no" in str(lacks_browser.longrepr)
