"""A model computes in one arithmetic; what another arithmetic made is another model's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.jobs.networks import load_classifier
from flows.jobs.shard import prepare_features
from storage.batches.features import made_by, read_block
from storage.batches.known_features import index_images
from storage.models.classifiers import load_card
from storage.models.detectors import load_model_of
from storage.store import Store, StoreError
from tasks.images.decoding import DECODING
from tasks.network import inference
from tasks.network.inference import has_bfloat16
from tasks.network.spec import NetworkError, NetworkSpec
from tests.support.models import store_with_tiny
from tests.support.needs import needs
from tests.support.shards import Night, add_detector, start

HAS_BFLOAT16 = needs("bfloat16", has_bfloat16(), "it is not here")


@pytest.fixture
def coarse(tmp_path: Path, spec: NetworkSpec, cells: Path) -> Night:
    """A night whose model, of the same weights and name as `fine`, computes in bfloat16."""
    return start(store_with_tiny(tmp_path / "coarse", replace(spec, arithmetic="bfloat16")), cells)


@pytest.fixture
def fine(store_with_model: Store, cells: Path) -> Night:
    return start(store_with_model, cells)


def features(night: Night) -> np.ndarray:
    block = read_block(night.store, "tiny", "night", 0, night.batch.rows)
    return np.concatenate([block.taps[name] for name in sorted(block.taps)], axis=1)


def test_the_card_names_the_arithmetic_and_the_digest_covers_it(coarse: Night, fine: Night) -> None:
    assert (coarse.card.arithmetic, fine.card.arithmetic) == ("bfloat16", "float32")
    assert coarse.card.digest != fine.card.digest
    assert load_card(coarse.store, "tiny").network["arithmetic"] == "bfloat16"


@HAS_BFLOAT16
def test_a_shard_that_is_done_again_in_bfloat16_has_the_same_bytes(
    coarse: Night, fine: Night
) -> None:
    coarse.run()
    fine.run()
    before = read_block(coarse.store, "tiny", "night", 0, 24).digest()
    distance = np.abs(features(coarse) - features(fine)).max() / np.abs(features(fine)).max()
    assert 1e-5 < distance < 0.05  # it was computed in another arithmetic
    coarse.store.remove("features", "tiny", "night.zarr", "taps", "c.1.0")
    assert [result.reused for result in coarse.run()] == [True, False, True]
    assert read_block(coarse.store, "tiny", "night", 0, 24).digest() == before


def test_features_of_another_arithmetic_are_neither_used_again_nor_written_to(
    fine: Night, coarse: Night
) -> None:
    """As in a store where a model was put in place of another of its weights and name."""
    fine.run()
    assert made_by(fine.store, "tiny", "night")[0] != coarse.card.digest
    keys = ("night",)
    assert len(index_images(fine.store, "tiny", fine.card.digest, keys, DECODING).image_ids)
    assert not len(index_images(fine.store, "tiny", coarse.card.digest, keys, DECODING).image_ids)
    detector, _ = add_detector(fine)
    detector = detector.model_copy(update={"model_digest": fine.card.digest})
    assert load_model_of(fine.store, detector) == fine.card
    for file in ("card.json", "model.safetensors"):
        there = Path(coarse.store.path("models", "tiny", file))
        Path(fine.store.path("models", "tiny", file)).write_bytes(there.read_bytes())
    with pytest.raises(StoreError, match="is not the one that detector d was made from"):
        load_model_of(fine.store, detector)
    with pytest.raises(StoreError, match="belongs to another manifest or model"):
        prepare_features(fine.store, fine.batch, coarse.card)


def test_a_machine_without_the_arithmetic_says_so(
    coarse: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "has_bfloat16", lambda: False)
    with pytest.raises(NetworkError, match=r"in bfloat16, and this machine's processor does not"):
        load_classifier(coarse.store, coarse.card)
