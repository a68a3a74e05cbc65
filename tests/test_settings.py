from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.settings import Settings

EXAMPLE = Path(__file__).parents[1] / "deploy" / "slidewatch.toml"


def test_the_example_in_deploy_is_valid_and_says_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLIDEWATCH_CONFIG", str(EXAMPLE))
    example = Settings()
    assert example.store == "/srv/slidewatch"
    monkeypatch.delenv("SLIDEWATCH_CONFIG")
    assert example.model_copy(update={"store": Settings().store}) == Settings()


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"alpha": 1}, {"workers": 0}, {"shard_rows": 0}, {"cluster": "cloud"}]
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]
