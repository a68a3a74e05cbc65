"""What the log of a run says, and what never stands in it."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.jobs.shard import FailedImage, ShardResult
from flows.monitoring import logs, telemetry
from flows.monitoring.console import complain, progress_bar, tell, warn
from flows.options.flows import Options
from flows.outcome import Outcome
from flows.prefect.decorators import flow, run
from flows.settings import Settings
from storage.batches.manifests import Shard


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Logging is the process's: what a test sets up ends with it."""
    names = ["", *logging.root.manager.loggerDict]
    loggers = [logging.getLogger(name) for name in names]
    before = [(list(each.handlers), each.level, each.propagate) for each in loggers]
    yield
    logging.captureWarnings(False)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def json_logs(as_it_was: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.use_logs("json")


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


# --- secrets


def test_no_handler_has_a_secret_and_prefects_own_has_none_either(
    as_it_was: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler of the run loggers, as that which sends them to Prefect, has them mended."""
    logs.use_logs("text")
    logger = logging.getLogger("prefect.flow_runs")
    logger.handlers.clear()
    with caplog.at_level(logging.INFO, logger="prefect"):
        try:
            raise OSError("no https://me:pass@host/")
        except OSError:
            logger.exception("cannot read %s", "https://h/x?token=abc")
    (record,) = caplog.records
    text = logging.Formatter().format(record)
    assert "https://h/x?token=***" in text
    assert "OSError: no https://***@host/" in text
    assert "abc" not in text
    assert "pass" not in text


# --- JSON


@pytest.mark.usefixtures("json_logs")
def test_standard_error_is_json_whoever_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    tell("waiting for https://me:pass@host/")
    warn("late")
    complain("slidewatch screen: no detector")
    logging.getLogger("some.library").warning("odd")
    logging.getLogger("some.library").error("at %s", "s3://k:s@b/")
    logging.getLogger("distributed.scheduler").info("chatter")
    found = lines_of(capsys)
    assert [(line["level"], line["logger"], line["message"]) for line in found] == [
        ("info", "slidewatch", "waiting for https://***@host/"),
        ("warning", "slidewatch", "late"),
        ("error", "slidewatch", "slidewatch screen: no detector"),
        ("warning", "some.library", "odd"),
        ("error", "some.library", "at s3://***@b/"),
    ]
    assert progress_bar().disable
    assert logs.is_json()


def test_a_line_says_when_and_in_which_run_and_names_what_is_bound() -> None:
    record = logging.LogRecord("prefect.flow_runs", logging.INFO, "", 0, "a\n%s", ("b",), None)
    record.created = 1_772_409_600.5
    record.flow_run_id = "run"
    record.fields = {"shard": 3, "uri": "https://u:p@h/", "outcome": {"page": ["s3://k:s@b/x"]}}
    with logs.bind(batch="night-1", series=None), logs.bind(slide="s"):
        line = logs.JsonHandler().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-03-02T00:00:00.500+00:00",
        "level": "info",
        "logger": "prefect.flow_runs",
        "message": "a\nb",
        "flow_run_id": "run",
        "batch": "night-1",
        "slide": "s",
        "shard": 3,
        "uri": "https://***@h/",
        "outcome": {"page": ["s3://***@b/x"]},
    }
    assert "batch" not in json.loads(logs.JsonHandler().format(record))


@pytest.mark.usefixtures("json_logs")
def test_an_error_has_its_traceback_without_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise OSError("no https://me:pass@host/")
    except OSError:
        logging.getLogger("slidewatch").exception("failed")
    (line,) = lines_of(capsys)
    assert "OSError: no https://***@host/" in str(line["traceback"])


@pytest.mark.usefixtures("as_it_was")
def test_json_is_set_up_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        logs.use_logs("json")
    assert sum(isinstance(each, logs.JsonHandler) for each in logging.root.handlers) == 1
    tell("once")
    assert len(lines_of(capsys)) == 1


@pytest.mark.usefixtures("as_it_was")
def test_json_is_written_although_prefect_has_silenced_its_log_since(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command sets its log up, and Prefect, which its flow imports, then sets up its own."""
    logs.use_logs("json")
    logger = logging.getLogger("prefect")
    logger.setLevel(logging.CRITICAL)
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logs.use_logs("json")
    logging.getLogger("prefect.said").info("freeze: begin")
    assert [line["message"] for line in lines_of(capsys)] == ["freeze: begin"]


# --- a flow


class Done(Outcome):
    number: int

    def _text(self) -> str:
        return f"it is {self.number}"


class Batched(Options):
    """Work on a batch."""

    batch: str


@telemetry.observed()
def inner(_: Options, settings: Settings) -> Done:
    return Done(number=2)


@flow()
@telemetry.observed()
def outer(options: Batched, settings: Settings) -> Done:
    with telemetry.stage("work"):
        logs.log(logging.INFO, "shard", shard=1)
        inner(Options(), settings)
    return Done(number=1)


@pytest.mark.usefixtures("json_logs")
def test_a_flow_logs_its_stages_and_one_outcome_with_its_run_and_batch(
    prefect_api: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(outer, Batched(batch="b"), Settings(store=str(tmp_path), logs="json"))
    ours = [line for line in lines_of(capsys) if "batch" in line]
    assert [(line["message"], line.get("stage"), line.get("event")) for line in ours] == [
        ("work: begin", "work", "begin"),
        ("shard", None, None),
        (ours[2]["message"], "work", "end"),
        ("it is 1", None, None),
    ]
    assert ours[-1]["outcome"] == {"number": 1}
    assert len({line["flow_run_id"] for line in ours}) == 1
    assert all(line["batch"] == "b" for line in ours)


@pytest.mark.usefixtures("json_logs")
def test_a_stage_that_is_cut_off_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), telemetry.stage("publish"):
        raise KeyboardInterrupt
    assert [line["event"] for line in lines_of(capsys)] == ["begin", "cut off"]


@pytest.mark.usefixtures("json_logs")
def test_every_failed_image_has_a_line_and_no_good_one(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    failed = tuple(
        FailedImage(row, f"https://h/{row}.png?token=abc", None, "damaged", "cut short")
        for row in range(telemetry.TO_PREFECT + 5)
    )
    telemetry.shard_done(ShardResult(Shard(2, 200, 300), failed, False, 3, 1.5, "host:7"))
    *images, shard = lines_of(capsys)
    assert [line["row"] for line in images] == list(range(200, 200 + len(failed)))
    assert {line["uri"] for line in images} == {f"https://h/{n}.png?token=***" for n in range(25)}
    assert images[0] | {"time": ""} == {
        "time": "",
        "level": "warning",
        "logger": "slidewatch",
        "message": "https://h/0.png?token=*** failed: damaged: cut short",
        "shard": 2,
        "row": 200,
        "uri": "https://h/0.png?token=***",
        "image_id": None,
        "reason": "damaged",
    }
    figures = {"images": 100, "failures": 25, "reused": False, "tries": 3, "seconds": 1.5}
    assert shard.items() >= (figures | {"shard": 2, "worker": "host:7"}).items()
    # A night of which every image fails must not fill Prefect's database.
    kept = [record for record in caplog.records if record.__dict__["send_to_api"]]
    assert len(kept) == telemetry.TO_PREFECT + 1


def test_nothing_in_a_message_steers_a_terminal(
    as_it_was: None, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    name = "\x1b]0;mine\x07\x1b[31mred\u202e\nslidewatch: all is well"
    logs.use_logs("text")
    for say in (tell, warn, complain):
        say(f"label {name} is none")
        said = capsys.readouterr().err
        assert said.rstrip("\n").isprintable(), said
        assert "\\x1b[31mred" in said
    assert all("\x1b" not in record.getMessage() for record in caplog.records)

    class Named(Outcome):
        def _text(self) -> str:
            return f"batch {name}\nimages 3"

    (piece,) = Named().pieces(as_json=False)
    assert not set(piece) & {"\x1b", "\x07", "\u202e"}
    assert piece.count("\n") == 3
