import io
import re
import time

import pytest
from rich.console import Console

from flows.monitoring import console as progress
from flows.monitoring.console import (
    CONSOLE,
    be_quiet,
    complain,
    counted,
    moving,
    progress_bar,
    tell,
    working,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "CONSOLE", Console(file=screen, force_terminal=True, width=120))
    return screen


def bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, pause: float) -> str:
    screen = on_a_terminal(monkeypatch)
    monkeypatch.setattr(progress.CONSOLE, "quiet", CONSOLE.quiet)
    with progress_bar() as bar:
        task = bar.add_task("night", total=8)
        for _ in range(4):
            time.sleep(pause)
            bar.advance(task)
        bar.refresh()
    return screen.getvalue()


def test_a_bar_shows_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = bar_on_a_terminal(monkeypatch, 0.05)
    assert "4/8" in text
    assert re.search(r"\d+\.\d/s", text)
    assert re.search(r"0:00:0\d", text)


def test_slow_steps_are_counted_by_the_minute() -> None:
    now = [0.0]
    with progress_bar() as bar:
        bar.get_time = lambda: now[0]
        task = bar.add_task("night", total=100)
        for _ in range(4):  # minutes a step, longer than rich remembers by itself
            now[0] += 120.0
            bar.advance(task)
        assert progress.RateColumn().render(bar.tasks[0]).plain == "0.5/min"
        assert bar.tasks[0].time_remaining == pytest.approx(96 * 120, rel=0.01)


def test_a_bar_is_seen_by_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as bar:
        bar.advance(bar.add_task("night", total=1))
    assert capsys.readouterr() == ("", "")


def test_quiet_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell("[bold]waiting[/bold] for C101")
    assert capsys.readouterr() == ("", "[bold]waiting[/bold] for C101\n")
    be_quiet(True)
    tell("waiting")
    assert capsys.readouterr() == ("", "")
    assert bar_on_a_terminal(monkeypatch, 0.0) == ""


def test_a_bar_counts_results(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_a_terminal(monkeypatch)
    results = counted(iter("abc"), "screen night", 3)
    assert next(results) == "a"
    results.close()  # type: ignore[attr-defined]
    assert "screen night" in screen.getvalue()
    assert "1/3" in screen.getvalue()


def test_where_no_bar_is_seen_lines_say_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", -1)
    for lines in (False, True):
        assert [*counted(iter("ab"), "screen night", 2, lines=lines)] == ["a", "b"]
    assert capsys.readouterr() == ("", "screen night: 1 of 2 jobs done\n")


def test_a_line_moves_while_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_a_terminal(monkeypatch)
    with moving("getting ready"):
        working("starting 2 workers", long=True)
        tell("a message")
        assert [*counted(iter("a"), "screen night", 1)] == ["a"]
        assert "a message\n" in screen.getvalue()
        complain("it failed")
        assert screen.getvalue().endswith("it failed\n")
        shown = len(screen.getvalue())
        working("this is not shown any more")
        assert len(screen.getvalue()) == shown
    text = screen.getvalue()
    assert all(each in text for each in ("getting ready", "starting 2 workers", "0:00:00"))
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") > 0  # the cursor is there again


def test_where_nothing_moves_a_line_says_what_takes_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    working("nobody runs a command", long=True)
    with moving("getting ready"):
        working("starting 2 workers", long=True)
        working("scoring")
    assert capsys.readouterr() == ("", "starting 2 workers\n")
