"""Settings in force and where they come from, and what shells complete."""

import json
import subprocess
from pathlib import Path

import pytest

from flows.commands.config import ConfigOutcome, completion
from flows.commands.main import main
from flows.commands.parser import spelt
from flows.options.commands import COMMANDS
from flows.options.taking import POSITIONAL


def config(capsys: pytest.CaptureFixture[str], *typed: str) -> dict[str, tuple[object, str]]:
    with pytest.raises(SystemExit):
        main(["config", "--json", *typed])
    found = ConfigOutcome.model_validate(json.loads(capsys.readouterr().out))
    return {each.name: (each.value, each.origin) for each in found.settings}


def test_every_setting_has_a_value_and_an_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "slidewatch.toml"
    file.write_text(
        'scheduler = "tls://night:8786"\nalpha = 0.1\n[field_limits]\nleast_cells = 2\n'
    )
    monkeypatch.setenv("SLIDEWATCH_STORE", "s3://bucket/store")
    monkeypatch.setenv("SLIDEWATCH_METRICS", "http://me:secret@gateway:9091")
    monkeypatch.setenv("SLIDEWATCH_ALPHA", "0.2")
    monkeypatch.setenv("SLIDEWATCH_FIELD_LIMITS__MOST_DARK", "0.3")
    found = config(capsys, "--workers", "3", "--field-limits.most-bright", ".4")
    assert found["store"] == ("s3://bucket/store", "environment, SLIDEWATCH_STORE")
    assert found["metrics"] == ("http://***@gateway:9091", "environment, SLIDEWATCH_METRICS")
    assert found["alpha"] == (0.2, "environment, SLIDEWATCH_ALPHA")
    assert found["scheduler"] == ("tls://night:8786", str(file))
    assert found["field_limits.least_cells"] == (2, str(file))
    dark = (0.3, "environment, SLIDEWATCH_FIELD_LIMITS__MOST_DARK")
    assert found["field_limits.most_dark"] == dark
    assert found["field_limits.most_bright"] == (0.4, "command line")
    assert found["workers"] == (3, "command line")
    assert found["shard_rows"] == (512, "default")
    assert found["tls_ca"] == (None, "default")


def test_a_person_reads_a_line_for_each_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["config", "--alpha", "0.1"])
    lines = capsys.readouterr().out.splitlines()
    assert "alpha = 0.1" in [line.partition("  ")[0] for line in lines]
    assert all(line.endswith(("(default)", "(command line)")) for line in lines)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_knows_every_command_and_option(shell: str) -> None:
    script = completion(shell).text()  # type: ignore[arg-type]
    for name, command in COMMANDS.items():
        assert all(word in script for word in name.split())
        for option, field in command.options.model_fields.items():
            typed = spelt(field) or str(field.validation_alias or option).replace("_", "-")
            assert typed in script or POSITIONAL in field.metadata
    assert "kubernetes" in script  # a word to choose from


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["scr"], {"screen"}),
        (["review", ""], {"apply", "export", "import", "report", "serve"}),
        (["screen", "--det"], {"--detector", "--detectable-percent"}),
        (["segment", "--into", ""], {"cells", "tiles"}),
        (["completion", "z"], {"zsh"}),
    ],
)
def test_bash_completes_commands_options_and_words(typed: list[str], offered: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in ["slidewatch", *typed])
    program = f"""{completion("bash").text()}
COMP_WORDS=({words}); COMP_CWORD={len(typed)}; COMP_LINE="{" ".join(["slidewatch", *typed])}"
_shtab_slidewatch 2>/dev/null; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash"], input=program, capture_output=True, text=True, check=True)
    assert {line.strip() for line in done.stdout.split()} - {"--help", "-h"} == offered
