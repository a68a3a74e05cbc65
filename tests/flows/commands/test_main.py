"""The command line as a person types it."""

import errno
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from flows.commands import main as command_line
from flows.commands.status import StatusOutcome, status
from flows.monitoring.console import tell
from flows.options.commands import COMMANDS
from flows.options.tools import Status
from flows.settings import Settings
from storage.models import shipped
from tests.support.processes import python

Run = Callable[..., tuple[int, str, str]]


def test_help_lists_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(name.split()[0] in out for name in COMMANDS)
    assert run()[0] == 2


def test_every_command_explains_its_options(run: Run) -> None:
    for name, command in COMMANDS.items():
        code, out, _ = run(*name.split(), "--help")
        assert code == 0
        assert f"slidewatch {name}" in out
        assert ("--store" in out) == ("store" in command.settings), name
        assert "--json" not in out, name
        assert "--json" in run(*name.split(), "--help-all")[1], name


def test_help_and_the_version_import_nothing_that_takes_long() -> None:
    """In a process of its own: this one has imported it all."""
    asked = [["--help"], ["--version"], *([*name.split(), "--help"] for name in COMMANDS)]
    heavy = ("torch", "prefect", "dask", "distributed", "pyarrow", "numpy", "zarr", "scipy", "PIL")
    code = f"""
import sys
from flows.commands.main import main
for words in {asked}:
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, words
print("imported:", sorted({set(heavy)} & set(sys.modules)))
"""
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version")[:2] == (0, f"slidewatch {version('slidewatch')}\n")


def test_a_command_of_two_words_names_its_parts(run: Run) -> None:
    code, out, _ = run("review")
    assert code == 2
    parts = [name.split()[1] for name in COMMANDS if name.startswith("review ")]
    assert all(f" {part} " in out for part in parts)


def test_a_misspelt_command_names_the_right_ones(run: Run) -> None:
    for typed, meant in {
        "scren": "screen",
        "revew serve": "review",
        "review srve --batch b": "serve",
    }.items():
        code, _, err = run(*typed.split())
        assert (code, err.count("\n")) == (2, 1)
        assert f'Did you mean "{meant}"?' in err
    _, _, err = run("lunch")
    assert "Available commands: train, fit, " in err


def test_a_wrong_date_is_said_in_one_line(run: Run) -> None:
    for day, said in {"yesterday": "give a date as YYYY-", "9000-01-01": "9000-01-01 lies"}.items():
        code, _, err = run("nightly", "--inbox", "i", "--date", day)
        assert (code, err.count("\n")) == (2, 1)
        assert f"--date: {said}" in err


def test_an_error_is_one_line_and_a_traceback_comes_with_debug(tmp_path: Path, run: Run) -> None:
    arguments = ["status", "--store", str(tmp_path / "none")]
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("slidewatch status: there is no store in ")
    assert "Traceback" in run(*arguments, "--debug")[2]


def test_json_is_all_there_is_on_standard_output(tmp_path: Path, run: Run) -> None:
    (tmp_path / "models").mkdir()
    code, out, _ = run("status", "--store", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["batches"] == []


def test_quiet_leaves_the_outcome_and_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def talkative(options: Status, settings: Settings) -> StatusOutcome:
        tell("working on it")
        return status(options, settings)

    monkeypatch.setattr(command_line, "resolve_name", lambda place: talkative)
    (tmp_path / "models").mkdir()
    arguments = ["status", "--store", str(tmp_path)]
    for flags, says in ([], "working on it\n"), (["--quiet"], ""), (["--json", "--quiet"], ""):
        code, out, err = run(*arguments, *flags)
        assert (code, err) == (0, says)
        assert ("no detectors" in out) == ("--json" not in flags)
    monkeypatch.undo()
    code, _, err = run("screen", "--batch", "b", "--quiet")
    assert (code, err.count("\n")) == (2, 1)


def test_flags_come_before_the_environment_and_it_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def store(*flags: str) -> str:
        return str(json.loads(run("status", "--json", *flags)[1])["store"])

    monkeypatch.chdir(tmp_path)
    for name in ("store", "from-file", "from-environment", "from-flag"):
        (tmp_path / name / "models").mkdir(parents=True)
    assert store() == "store"
    (tmp_path / "slidewatch.toml").write_text('store = "from-file"\n')
    assert store() == "from-file"
    monkeypatch.setenv("SLIDEWATCH_STORE", "from-environment")
    assert store() == "from-environment"
    assert store("--store", "from-flag") == "from-flag"


def test_a_setting_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slidewatch.toml").write_text('stroe = "typo"\n')
    code, _, err = run("status")
    assert code == 2
    file = tmp_path / "slidewatch.toml"
    assert err == f"slidewatch status: stroe ({file}): extra inputs are not permitted\n"


def test_a_wrong_setting_says_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIDEWATCH_ALPHA", "7")
    code, _, err = run("status")
    assert code == 2
    assert err.startswith("slidewatch status: alpha (environment, SLIDEWATCH_ALPHA): input should")
    monkeypatch.setenv("SLIDEWATCH_FIELD_LIMITS", "{")
    code, _, err = run("status")
    assert (code, err.count("\n")) == (2, 1)
    assert "field_limits" in err
    monkeypatch.setenv("SLIDEWATCH_CONFIG", "none.toml")
    code, _, err = run("status")
    assert (code, err) == (
        2,
        "slidewatch status: SLIDEWATCH_CONFIG names none.toml, which is not a file\n",
    )


def test_a_file_of_settings_that_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("store", "elsewhere"):
        (tmp_path / name / "models").mkdir(parents=True)
    assert run("status")[2] == ""
    (tmp_path / "slidewatch.toml").write_text('store = "elsewhere"\n')
    assert run("status")[2] == ""  # it names its store
    assert f"settings: {tmp_path / 'slidewatch.toml'}\n" in run("retract", "--batch", "b")[2]
    assert "settings: " not in run("--quiet", "retract", "--batch", "b")[2]


def test_an_unreachable_scheduler_is_said_so(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr("flows.cluster.kinds.REACH", 1)
    code, out, _ = run("doctor", "--cluster", "scheduler", "--scheduler", "tcp://127.0.0.1:9")
    assert code == command_line.NEEDS_A_PERSON
    assert "no Dask scheduler at tcp://127.0.0.1:9" in out


def test_a_scheduler_that_a_file_of_settings_names_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slidewatch.toml").write_text(
        'cluster = "scheduler"\nscheduler = "tcp://127.0.0.1:9"\n'
    )
    code, _, err = run("retract", "--batch", "b")
    assert code == 1
    assert err.splitlines()[:2] == [
        f"settings: {tmp_path / 'slidewatch.toml'}",
        "workers: those of the Dask scheduler tcp://127.0.0.1:9",
    ]


@pytest.mark.parametrize("logs", ["json", pytest.param("text", marks=pytest.mark.slow)])
def test_a_new_store_has_the_detector_of_the_package(tmp_path: Path, logs: str) -> None:
    """In a process of its own, as an operator starts it."""
    command = ["-m", "flows.commands.main"]
    given = ["--store", tmp_path / "store", "--logs", logs, "--debug"]
    done = python(*command, "screen", "--images", tmp_path, "--batch", "b", *given, code=None)
    assert done.returncode == 3
    said = done.stderr.splitlines()
    if logs == "json":
        said = [line["message"] for line in map(json.loads, said) if line["logger"] == "slidewatch"]
    assert "there are no images for batch b" in said[-1]
    assert any(line.endswith("freeze: begin") for line in said)
    assert [path.name for path in (tmp_path / "store" / "detectors").iterdir()] == [
        path.name for path in (shipped.FOLDER / "detectors").iterdir()
    ]


@pytest.mark.parametrize("first", ["prefect.main", "distributed"])
def test_dask_has_no_say_whichever_library_comes_first(first: str) -> None:
    """An import sets the level of Dask's log, and evaluate used to show what its scheduler does."""
    script = f"""
import logging
from flows.commands.main import _quiet_prefect
_quiet_prefect(debug=False)
import {first}
from prefect.logging.configuration import setup_logging
setup_logging()
import distributed
logging.getLogger("distributed.scheduler").info("Registering Worker plugin shuffle")
"""
    done = python("-c", script)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    "given",
    [
        ["screen", "--batch", "b", "--images", "s3://key:hush@bucket/cells"],
        ["screen", "--batch", "b", "--images", "cells", "--images", "https://h/x?token=hush"],
        ["fit", "--batch", "b", "--images", "s3://key:hush@bucket/cells"],
        ["segment", "--name", "b", "--images", "https://me:hush@host/a.zip"],
        ["nightly", "--inbox", "sftp://me:hush@host/in"],
        ["evaluate", "--images", "cells", "--ood", "far/cats=s3://key:hush@bucket/cats"],
        ["status", "--store", "s3://key:hush@bucket/store"],
        ["doctor", "--scheduler", "tls://me:hush@host:8786"],
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(given: list[str], run: Run) -> None:
    """It would stand in manifests, reports, pages, and in Prefect's parameters and artifacts."""
    code, out, err = run(*given)
    assert code == 2
    assert "must not contain a password or token" in err
    assert "hush" not in out + err
    assert err.count("\n") == 1


FULL = (errno.ENOSPC, "No space left on device")
TO_DO = ("slidewatch prune", "run the same command again")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/store/card.json"),
            ["/srv/store/card.json cannot be used (Permission denied): check the path"],
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), ["does not answer ([Errno 111] no"]),
        (EndpointConnectionError(endpoint_url="http://a"), ["answer (Could not connect to the"]),
        (OSError(*FULL), ["the disk of the store", *TO_DO]),
        (OSError(*FULL, "/srv/store/reports"), ["/srv/store/reports", *TO_DO]),
    ],
)
def test_what_cannot_be_reached_or_written_is_a_sentence(
    error: Exception, says: list[str], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def fail(*_: object) -> StatusOutcome:
        raise error

    monkeypatch.setattr(command_line, "resolve_name", lambda place: fail)
    code, _, err = run("status")
    assert (code, err.count("\n")) == (1, 1)
    assert all(words in err for words in says), err
    assert "Error:" not in err
