"""Cards whose digest is right and whose values cannot be: whoever edits one by hand writes both."""

import json
import math
from pathlib import Path

import pytest

from flows.commands.status import verify
from flows.options.tools import Verify
from flows.settings import Settings
from storage.records import OWN_DIGEST
from storage.store import digest_of
from tests.system.golden import stores

MODEL = "models/golden"
DETECTOR = "detectors/golden"
COMMISSIONED = "detectors/kampala-v0001"
RATE = "counting/counting/false_positives"


@pytest.mark.parametrize(
    ("folder", "field", "value"),
    [
        (MODEL, "temperature", 0.001),
        (MODEL, "temperature", math.nan),
        (MODEL, "schema_version", 0),
        (DETECTOR, "alpha", 0.0),
        (DETECTOR, f"{RATE}/mean", -0.5),
        (DETECTOR, f"{RATE}/deviation", math.nan),
        (DETECTOR, "floor/shift", math.inf),
        (DETECTOR, "model_digest", "0"),
        (COMMISSIONED, "learned/false_alarms/0.05", 2.0),
        (COMMISSIONED, "adaptation/scale", math.nan),
    ],
)
def test_verify_names_a_card_of_values_that_cannot_be(
    folder: str, field: str, value: object, tmp_path: Path
) -> None:
    store = stores.newest(tmp_path)
    settings = Settings(store=store.url)
    assert verify(Verify(), settings).damaged == []
    path = f"{folder}/card.json"
    data = {name: kept for name, kept in store.read_json(path).items() if name != OWN_DIGEST}
    *above, last = field.split("/")
    place = data
    for name in above:
        place = place[name]
    assert last in place
    place[last] = value
    digest = digest_of(json.dumps(data, sort_keys=True, ensure_ascii=False).encode())
    store.write_bytes(json.dumps(data | {OWN_DIGEST: digest}).encode(), path)
    assert folder in [line.partition(":")[0] for line in verify(Verify(), settings).damaged]
