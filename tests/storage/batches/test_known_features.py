"""Images that an earlier batch had are not computed again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.batches.features import FeatureBlock, read_block
from storage.batches.known_features import index_images
from storage.batches.ledger import read_shard_record
from storage.batches.manifests import load_batch
from storage.models.classifiers import load_card
from storage.store import Store
from tasks.images import decoding
from tasks.images.decoding import DECODING, Check, Picture
from tasks.images.listing import list_images
from tests.support.models import CLASSES
from tests.support.shards import freeze_night

Decode = Callable[[bytes, int, Check | None], Picture]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is decoded from now on."""
    seen: list[bytes] = []
    honest: Decode = decoding.decode

    def decode(content: bytes, side: int, check: Check | None = None) -> Picture:
        seen.append(content)
        return honest(content, side, check)

    monkeypatch.setattr(decoding, "decode", decode)
    return seen


def extracted(
    store: Store, images: Path, name: str, earlier: list[str], decoding: int = DECODING
) -> FeatureBlock:
    manifest, card = list_images(str(images), classes=CLASSES), load_card(store, "tiny")
    night = freeze_night(
        store, manifest, name, card, 10, str(images), decoding=decoding, earlier=earlier
    )
    night.run()
    return read_block(store, "tiny", name, 0, night.batch.rows)


@pytest.fixture
def first(store_with_model: Store, cells: Path) -> FeatureBlock:
    index_images.cache_clear()
    return extracted(store_with_model, cells, "first", [])


def moved(cells: Path, folder: Path) -> Path:
    """The same 24 images in the other order, under other names and without labels."""
    folder.mkdir()
    for i, image in enumerate(sorted(cells.rglob("*.png"), reverse=True)):
        shutil.copy(image, folder / f"{i:02d}.png")
    return folder


def by_digest(block: FeatureBlock) -> dict[bytes, list[bytes]]:
    arrays = {name: values for name, values in block.arrays().items() if name != "label"}
    return {
        block.image_id[row].tobytes(): [values[row].tobytes() for values in arrays.values()]
        for row in range(len(block))
    }


def test_images_seen_before_are_read_and_not_decoded(
    store_with_model: Store, cells: Path, tmp_path: Path, first: FeatureBlock, decoded: list[bytes]
) -> None:
    again = extracted(store_with_model, moved(cells, tmp_path / "moved"), "again", ["first"])
    assert not decoded
    assert by_digest(again) == by_digest(first)
    assert (again.label == -1).all()
    assert set(first.label) == {0, 1}


def test_what_is_new_is_computed_beside_what_is_known(
    store_with_model: Store, cells: Path, tmp_path: Path, first: FeatureBlock, decoded: list[bytes]
) -> None:
    folder = moved(cells, tmp_path / "moved")
    new = folder / "05.png"
    new.write_bytes(new.read_bytes() + b"trailing bytes make another file of the same picture")
    again = extracted(store_with_model, folder, "again", ["first"])
    assert decoded == [new.read_bytes()]
    assert np.isfinite(again.logits).all()
    same = sum(values == by_digest(first).get(key) for key, values in by_digest(again).items())
    assert same == 23


def test_features_that_are_damaged_are_computed_again(
    store_with_model: Store, cells: Path, tmp_path: Path, first: FeatureBlock, decoded: list[bytes]
) -> None:
    for chunk in Path(store_with_model.path("features", "tiny", "first.zarr", "taps")).glob("c.*"):
        chunk.unlink()
    again = extracted(store_with_model, moved(cells, tmp_path / "moved"), "again", ["first"])
    assert len(decoded) == 24
    assert np.isfinite(again.logits).all()


def test_a_batch_without_features_under_this_model_is_passed_over(
    store_with_model: Store, cells: Path, first: FeatureBlock, decoded: list[bytes]
) -> None:
    extracted(store_with_model, cells, "again", ["gone", "first"])
    assert not decoded
    digest = load_card(store_with_model, "tiny").digest
    index = index_images(store_with_model, "tiny", digest, ("gone", "first"), DECODING)
    assert [batch.name for batch in index.batches] == ["first"]
    assert bytes(32) not in index
    assert "text" not in index


def test_features_of_images_that_were_decoded_otherwise_are_not_used(
    store_with_model: Store, cells: Path, decoded: list[bytes]
) -> None:
    index_images.cache_clear()
    extracted(store_with_model, cells, "first", [], decoding=DECODING - 1)
    decoded.clear()
    extracted(store_with_model, cells, "again", ["first"])
    assert len(decoded) == 24


def test_a_ledger_record_says_which_versions_made_the_features(
    store_with_model: Store, first: FeatureBlock
) -> None:
    batch = load_batch(store_with_model, "first")
    record = read_shard_record(store_with_model, batch, "tiny", next(batch.shards()))
    assert record is not None
    assert record.versions is not None
    assert set(record.versions) == {"python", "torch", "openvino", "pillow", "numpy"}
