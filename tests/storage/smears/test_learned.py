from pathlib import Path

from storage.batches.features import SCORED
from storage.batches.manifests import load_batch
from storage.models.detectors import load_detector_card, load_model_of
from storage.smears.learned import images_of_batch, newest_learned
from tests.system.golden import values
from tests.system.golden.stores import newest


def test_the_images_that_a_detector_has_learned_are_those_of_its_nights_that_were_scored(
    tmp_path: Path,
) -> None:
    store = newest(tmp_path)
    card = load_detector_card(store, values.LABORATORY)
    scored = values.BLOCK.image_id[values.BLOCK.status == SCORED]
    (night,) = card.nights
    model = load_model_of(store, card)
    found = images_of_batch(store, model, load_batch(store, night.batch, night.attempt))
    assert found == {row.tobytes() for row in scored}
    assert len(found) == len(scored) > 0
    assert newest_learned(store) == [card]
