"""Mistakes are said before a worker is started."""

from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest

from flows.cluster import kinds
from flows.commands import main as command_line
from flows.commands.main import main
from flows.prefect import decorators
from flows.settings import Settings
from storage.store import Store
from tasks.images.manifest import SCHEMA
from tests.support.batches import freeze
from tests.system.golden.stores import newest


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(settings: Settings) -> NoReturn:
        raise AssertionError("something was started")

    monkeypatch.setattr(command_line, "import_for_workers", lambda: None)
    for module in (command_line, decorators):  # other tests may have started one
        monkeypatch.setattr(module, "server", lambda: None)
    monkeypatch.setitem(kinds.OPENERS, "local", start)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").mkdir()


def said(capsys: pytest.CaptureFixture[str], *typed: str) -> tuple[object, str]:
    """The exit code of a command, and its words on standard error."""
    with pytest.raises(SystemExit) as end:
        main(list(typed))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        ("train --images none", 1, "none does not exist"),
        ("train --images cells --images none", 1, "none does not exist"),
        ("train --images cells --weights none.pt", 1, "--weights none.pt: give imagenet, scratch"),
        ("train --images cells --model a/b", 1, "'a/b'"),
        ("train --images cells --epochs 0", 2, "--epochs: input should be greater than"),
        ("fit --images cells --batch b", 1, "no model in"),
        ("fit --images cells", 2, "--batch: a value is missing"),
        ("retract", 2, "say what to take out: one of --batch, --slide and --patient"),
        ("retract --batch b", 1, "no model in"),
        ("unlearn --batch b --laboratory a", 1, "no laboratory 'a' in"),
        ("segment --images zip://a::none.zip --name s", 1, "zip://a::none.zip does not exist"),
        ("screen --images= --batch b", 2, "--images: it is empty: is a variable not set?"),
        ("screen --images cells --batch=", 2, "--batch: it is empty"),
        ("contours --batch b --to=", 2, "--to: it is empty"),
        ("fit --images cells --images= --batch b", 2, "--images: it is empty"),
        ("train --images=", 2, "--images: it is empty"),
        ("commission --images= --laboratory s", 2, "--images: it is empty"),
        ("segment --images= --name s", 2, "--images: it is empty"),
        ("evaluate --images=", 2, "--images: it is empty"),
        ("nightly --inbox=", 2, "--inbox: it is empty"),
        ("status --store=", 2, "--store: it is empty"),
        ("status --store http://x/y", 2, "cannot be a store, because http is only read"),
        ("status --store reference://x", 2, "--store: reference://x cannot be a store"),
        ("query FROM --store gopher://x", 1, "gopher://x is no address that can be opened"),
        (
            "screen --images cells --store ftp://127.0.0.1:1/x",
            1,
            "127.0.0.1:1/x is no address that",
        ),
        ("status --store none", 1, "there is no store in"),
        ("verify --store none", 1, "there is no store in"),
        ("prune --apply --store none", 1, "there is no store in"),
        ("query FROM --store none", 1, "there is no store in"),
        ("verify --store cells", 1, "none of the folders that slidewatch makes"),
        ("screen --images cells --batch b --detector d", 1, "no detector in"),
        ("nightly --inbox cells --timezone Mars", 2, "--timezone: no time zone 'Mars'"),
        ("evaluate --images cells --ood x", 2, "--ood: x is not of the form GROUP/NAME=URL"),
        ("evaluate --images cells --attacks x", 2, '"x" for --attacks. Choose from: "fgsm"'),
    ],
)
def test_a_mistake_is_said_at_once(
    typed: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, err = said(capsys, *typed.split())
    assert (ended, err.count("\n")) == (code, 1)
    assert says in err


@pytest.mark.parametrize(
    ("cluster", "says"), [("scheduler", "needs an address"), ("no.Such", "there is no no.Such")]
)
def test_a_cluster_needs_its_settings(
    cluster: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = said(capsys, *f"segment --images cells --name s --cluster {cluster}".split())
    assert code == 1
    assert says in err


def test_an_empty_variable_is_no_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIDEWATCH_STORE", "")
    code, err = said(capsys, "status")
    assert code == 2
    assert "store (environment, SLIDEWATCH_STORE): the address is empty: is a variable not" in err


@pytest.mark.parametrize("content", [bytes(range(256)), b"\xff\xfe", b"a = " + b"[" * 50_000])
def test_a_settings_file_of_random_bytes_is_named(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slidewatch.toml").write_bytes(content)
    code, err = said(capsys, "status")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tmp_path / 'slidewatch.toml'} is not TOML" in err


def test_a_settings_file_of_two_gigabytes_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "slidewatch.toml").open("wb") as file:
        file.truncate(2**31)
    code, err = said(capsys, "status")
    assert (code, err.count("\n")) == (2, 1)
    assert "slidewatch.toml has 2,147,483,648 bytes, too many for settings" in err


def test_a_damaged_card_of_an_older_detector_stops_no_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = newest(tmp_path)
    store.write_bytes(b"{", "detectors", "golden-v0000", "card.json")
    for typed in ("screen --images cells --batch b", "nightly --inbox cells"):
        _, err = said(capsys, *typed.split(), "--store", store.url)
        assert "something was started" in err


def test_a_batch_that_goes_on_needs_its_images_no_more(
    store_with_model: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_with_model
    typed = ["fit", "--images", "none", "--batch", "b", "--store", store.url]
    assert said(capsys, *typed)[1] == "slidewatch fit: none does not exist\n"
    labelled = pa.Table.from_pylist([{"uri": "file:///gone.png", "label": "Parasitized"}], SCHEMA)
    freeze(store, labelled, "b", images="none")
    assert "something was started" in said(capsys, *typed)[1]


def test_an_evaluation_needs_no_other_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = newest(tmp_path)
    _, err = said(capsys, "evaluate", "--images", "cells", "--store", store.url)
    assert "something was started" in err
