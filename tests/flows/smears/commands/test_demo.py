from pathlib import Path

import pytest

from flows.options.tools import Demo
from flows.settings import Settings
from flows.smears.commands.demo import ORDINARY, demo
from tasks.images.access.files import SourceError


@pytest.mark.slow
def test_the_demo_catches_what_it_planted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = demo(Demo(folder=str(tmp_path / "demo")), Settings())
    assert "\n  patients " in capsys.readouterr().err
    assert not outcome.failed
    for kind, number in outcome.planted.items():
        if kind != ORDINARY:
            assert outcome.caught[kind] == number, kind
    assert outcome.caught[ORDINARY] <= 0.15 * outcome.planted[ORDINARY]


def test_the_demo_removes_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "precious").write_text("data")
    with pytest.raises(SourceError, match="holds no earlier demo"):
        demo(Demo(folder=str(tmp_path)), Settings())
    assert (tmp_path / "store" / "precious").read_text() == "data"
