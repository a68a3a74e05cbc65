import pytest
from pydantic import ValidationError

from flows.settings import Settings
from tests.support.paths import ROOT

EXAMPLE = ROOT / "deploy" / "slidewatch.toml"


def test_the_example_in_deploy_is_valid_and_says_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLIDEWATCH_CONFIG", str(EXAMPLE))
    example = Settings()
    assert example.store == "/srv/slidewatch/store"
    monkeypatch.delenv("SLIDEWATCH_CONFIG")
    # Where things are is a machine's own; the rest is as by default.
    places = {"store": Settings().store, "pages_url": None}
    assert example.model_copy(update=places) == Settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0},
        {"alpha": 1},
        {"workers": 0},
        {"shard_rows": 0},
        {"cluster": "cloud"},
        {"logs": "yaml"},
        {"metrics": "night.txt"},
        {"metrics": "http://gateway/night.prom"},
        {"detectable_percent": 0},
        {"field_limits": {"least_cells": -1}},
    ],
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]
