"""Mistakes are said before a server or a worker is started."""

from pathlib import Path

import pytest

from flows.commands import main as command_line
from flows.commands.main import main
from storage.store import Store
from tests.support.batches import freeze, manifest
from tests.system.golden.stores import VERSIONS, copied


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start() -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(command_line, "start_server", start)
    monkeypatch.setattr(command_line, "import_for_workers", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").mkdir()


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        ("train --images none", 1, "none does not exist"),
        ("train --images cells --images none", 1, "none does not exist"),
        ("train --images cells --weights none.pt", 1, "--weights none.pt is no file"),
        ("train --images cells --model a/b", 1, "'a/b'"),
        ("train --images cells --epochs 0", 2, "--epochs: input should be greater than"),
        ("fit --images cells --batch b", 1, "no model in"),
        ("fit --images cells", 2, "--batch: field required"),
        ("retract", 2, "say what to take out: one of --batch, --slide and --patient"),
        ("retract --batch b", 1, "no model in"),
        ("segment --images none/*/x.png --name s --overlap 256", 2, "--overlap 256 must be less"),
        ("segment --images zip://a::none.zip --name s", 1, "zip://a::none.zip does not exist"),
        ("screen --images cells --batch b", 1, "no detector in"),
        ("screen --images cells --batch b --detector d", 1, "no detector in"),
        ("nightly --inbox cells --timezone Mars", 2, "--timezone: no time zone 'Mars'"),
        ("evaluate --images cells --ood x", 2, "--ood: x is not of the form GROUP/NAME=URL"),
        ("evaluate --images cells --attacks x", 2, "--attacks: input should be 'fgsm'"),
        ("fit --images cells --batch b --cluster scheduler", 1, "needs an address"),
        ("fit --images cells --batch b --cluster kubernetes", 1, "needs the YAML file"),
    ],
)
def test_a_mistake_is_said_at_once(
    typed: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(typed.split())
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n")) == (code, 1)
    assert says in err


def test_a_batch_that_goes_on_needs_its_images_no_more(
    store_with_model: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_with_model
    typed = ["fit", "--images", "none", "--batch", "b", "--store", store.url]
    with pytest.raises(SystemExit):
        main(typed)
    assert capsys.readouterr().err == "slidewatch fit: none does not exist\n"
    freeze(store, manifest(0), "b", images="none")
    with pytest.raises(SystemExit):
        main(typed)
    assert "something was started" in capsys.readouterr().err


def test_an_evaluation_needs_no_other_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = copied(VERSIONS[-1], tmp_path)
    with pytest.raises(SystemExit):
        main(["evaluate", "--images", "cells", "--store", store.url])
    assert "something was started" in capsys.readouterr().err
