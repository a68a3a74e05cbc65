"""Files that people hand over, each field of them changed: refused in a sentence, or harmless."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as of_test
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.options.tools import ReviewImport
from flows.settings import Settings, UsageError, leaves
from flows.smears.commands.review.imports import import_answers
from storage.batches.manifests import load_batch, read_manifest
from storage.smears.answers import Answer, latest_labels
from storage.store import Store, StoreError
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images
from tasks.images.manifest import SCHEMA
from tasks.images.regions import image_refs
from tasks.network.backbones import build
from tasks.network.extraction import load_image
from tasks.network.spec import NetworkError, NetworkSpec
from tasks.smears.answers.sheets import AnswerError
from tests.support import photographs, reading
from tests.support.faults.runs import files_of

SAYABLE = {"Parasitized", "Uninfected", "other"}
SIDE = 32
QUICK = of_test(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def here(store_with_model: Store, tmp_path: Path) -> Store:
    return photographs.screened_photograph(store_with_model, tmp_path)


def assert_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert str(error)


def assert_refused_or_sound(store: Store, sheet: Path) -> None:
    """Import answers; where they are refused nothing is written, and others are what they say."""
    before = files_of(store.root)
    told = Settings(store=store.url)
    try:
        import_answers(ReviewImport(file=str(sheet)), told)
    except (AnswerError, SourceError, StoreError) as error:
        assert_sentence(error)
        assert files_of(store.root) == before
        return
    rows = latest_labels(store, "night").rows.to_pylist()
    assert {row["answer"] for row in rows} <= SAYABLE
    assert len({row["image_id"] for row in rows}) == len(rows) <= photographs.CELLS
    store.remove("labels", "night")


TEXTS = st.sampled_from(
    ["", "x", "Parasitized", "other", "OTHER", "nan", "1e400", "../x", "\x1b[31m", "a" * 10**4, '"',
     "\x00", "=1+1", "\u202e", "night\nnight"]
) | st.text(max_size=8)  # fmt: skip


@QUICK
@given(data=st.data())
def test_whatever_is_changed_in_a_sheet_is_refused_or_sound(
    data: st.DataObject, here: Store, tmp_path: Path
) -> None:
    report = next(Path(here.root, "reports", "images").rglob("*.parquet"))
    ids = pq.read_table(report, partitioning=None)["image_id"].to_pylist()
    header = ["image_id", "batch", "answer", "note", "reader"]
    rows = [header] + [[i, "night", "Uninfected", "", "Ada"] for i in ids[:3]]
    row, column = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    rows[row][column] = data.draw(TEXTS | st.sampled_from(ids))
    if data.draw(st.integers(0, 3)) == 0:
        rows.insert(data.draw(st.integers(0, 4)), rows[data.draw(st.integers(0, 3))])
    bad = tmp_path / "bad.csv"
    text = "\r\n".join(",".join(cells) for cells in rows).encode("utf-8", "surrogatepass")
    bad.write_bytes(text)
    assert_refused_or_sound(here, bad)


NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 7, 600, 10**9, 2**31, 2**62, 2**63 - 1])
REALS = st.sampled_from([float("nan"), float("inf"), -1.0, 0.0, 1e-300, 0.5, 1e300, 5e-324])


def of_kind(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_integer(kind):
        small = kind.bit_width == 8
        return st.integers(-128, 127) if small else NUMBERS
    if pa.types.is_floating(kind):
        return REALS
    if pa.types.is_list(kind):
        return st.lists(REALS, max_size=9)
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_timestamp(kind):
        return st.integers(-(2**62), 2**62)
    return TEXTS


@of_test(QUICK, max_examples=50)
@given(data=st.data())
def test_whatever_is_changed_in_a_manifest_each_row_is_an_image_or_says_why_not(
    data: st.DataObject, here: Store, tmp_path: Path
) -> None:
    table = read_manifest(here, load_batch(here, "night"))
    whole = pa.Table.from_pylist([{"uri": str(tmp_path / "field.png")}], SCHEMA)
    table = pa.concat_tables([table.cast(SCHEMA), whole])
    name = data.draw(st.sampled_from(SCHEMA.names))
    row = data.draw(st.integers(0, table.num_rows - 1))
    values = table[name].cast(
        pa.int64() if pa.types.is_timestamp(SCHEMA.field(name).type) else SCHEMA.field(name).type
    ).to_pylist()  # fmt: skip
    values[row] = data.draw(st.none() | of_kind(SCHEMA.field(name).type))
    kind = SCHEMA.field(name).type
    made = pa.array(values, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(
        values, kind
    )  # fmt: skip
    bad = tmp_path / "bad.parquet"
    pq.write_table(table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), made), bad)
    try:
        listed = list_images(str(bad))
    except SourceError as error:
        assert_sentence(error)
        return
    assert listed.num_rows == table.num_rows
    for ref in image_refs(listed):
        loaded = load_image(ref, SIDE)
        if loaded.failure is None:
            assert loaded.pixels is not None
            assert loaded.pixels.shape == (SIDE, SIDE, 3)
        else:
            assert loaded.failure.reason


@QUICK
@given(data=st.data())
def test_whatever_settings_say_they_are_refused_or_finite(
    data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIDEWATCH_CONFIG", raising=False)
    known = leaves(Settings(store=str(tmp_path)).model_dump())
    name = data.draw(st.sampled_from(sorted(known)))
    values = ["nan", "inf", "-inf", "-1", "0", "1e308", "1e-320", "true", '""', '"\x7f"', "[]",
              '"../x"', "99999999999999999999999999", "1979-05-27"]  # fmt: skip
    above, _, leaf = name.rpartition(".")
    value = data.draw(st.sampled_from(values))
    file = tmp_path / "slidewatch.toml"
    file.write_text((f"[{above}]\n" if above else "") + f"{leaf} = {value}\n")
    monkeypatch.setenv("SLIDEWATCH_CONFIG", str(file))
    try:
        found = leaves(Settings().model_dump())
    except (ValidationError, UsageError):
        return
    for value in found.values():
        assert not isinstance(value, float) or math.isfinite(value)


LEAVES = st.sampled_from(
    [-7, -1, 0, 1, 2, 10**15, 10**400, 0.5, 1e300, -1e300, float("nan"), float("inf"), None, True,
     "", "x", "all", "../x", "\x1b[31m", "a" * 64, "a" * 10**4, [], {}, [[]], ["x"]]
)  # fmt: skip


@st.composite
def changed_document(draw: st.DrawFn, document: Any) -> Any:
    """Draw a copy of a document with one field changed or taken out."""
    made = copy.deepcopy(document)
    path: list[Any] = []
    at = place = made
    while isinstance(at, dict | list) and at:
        options = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        path.append(draw(st.sampled_from(options)))
        place, at = at, at[path[-1]]
    if draw(st.integers(0, 4)) == 0:
        del place[path[-1]]
    else:
        place[path[-1]] = draw(LEAVES)
    return made


@QUICK
@given(data=st.data())
def test_whatever_is_changed_in_a_reading_is_damage_or_sound(
    data: st.DataObject, store: Store
) -> None:
    said = Answer(reader="Ada", image_id="0" * 64, answer="other", at=reading.WHEN, seconds=1.5)
    changed = data.draw(changed_document(said.model_dump(mode="json")))
    path = ("answers", "night", "00000000-0123456789ab.json")
    store.write_bytes(json.dumps(changed).encode(), *path)
    try:
        found = Answer.read(store, *path)
    except StoreError as error:
        assert_sentence(error)
        return
    assert math.isfinite(found.seconds)
    assert found.seconds >= 0


@pytest.fixture(scope="module")
def weights(spec: NetworkSpec) -> dict[str, Any]:
    return dict(build(spec).backbone.state_dict())


@of_test(QUICK, max_examples=30)
@given(data=st.data())
def test_weights_are_refused_or_of_finite_numbers(
    data: st.DataObject, spec: NetworkSpec, weights: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    made = copy.deepcopy(weights)
    name = data.draw(st.sampled_from(sorted(made)))
    kind = data.draw(st.sampled_from(["poison", "shape", "missing", "type", "more"]))
    if kind == "poison" and made[name].is_floating_point() and made[name].numel():
        made[name] = made[name].contiguous()
        made[name].view(-1)[0] = torch.tensor(data.draw(REALS), dtype=torch.float64)
    if kind == "shape":
        made[name] = made[name][None]
    if kind == "missing":
        del made[name]
    if kind == "type":
        made[name] = made[name].to(data.draw(st.sampled_from([torch.int8, torch.float64])))
    if kind == "more":
        made["x\x1b[31m"] = torch.zeros(1)
    save_file({key: each.contiguous() for key, each in made.items()}, tmp_path / "w.safetensors")
    try:
        found = build(spec, str(tmp_path / "w.safetensors"))
    except NetworkError as error:
        assert_sentence(error)
        return
    assert all(bool(torch.isfinite(each).all()) for each in found.state_dict().values())
