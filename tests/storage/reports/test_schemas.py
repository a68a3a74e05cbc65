import pytest

from tests.support.reports import SCHEMAS


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_column_says_what_it_means(kind: str) -> None:
    schema = SCHEMAS[kind]
    assert [field.name for field in schema if not (field.metadata or {}).get(b"meaning")] == []
    made_by = ["detector", "batch", "batch_date", "model", "scored_at"]
    last = made_by if kind in ("images", "patients", "batches") else made_by[:3]
    assert schema.names[-len(last) :] == last
