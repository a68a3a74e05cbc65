import pytest

from tests.support.reports import SCHEMAS


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_column_says_what_it_means(kind: str) -> None:
    schema = SCHEMAS[kind]
    assert [field.name for field in schema if not (field.metadata or {}).get(b"meaning")] == []
    assert schema.names[-5:] == ["model", "detector", "batch", "batch_date", "scored_at"]
