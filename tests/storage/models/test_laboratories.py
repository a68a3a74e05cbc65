from pathlib import Path

from storage.batches.features import SCORED
from storage.models.laboratories import images_of_laboratory, load_laboratory
from tests.system.golden import values
from tests.system.golden.stores import newest


def test_the_images_of_a_laboratory_are_those_of_its_nights_that_were_scored(
    tmp_path: Path,
) -> None:
    store = newest(tmp_path)
    card = load_laboratory(store, values.LABORATORY)
    scored = values.BLOCK.image_id[values.BLOCK.status == SCORED]
    found = images_of_laboratory(store, card)
    assert found == {row.tobytes() for row in scored}
    assert len(found) == len(scored) > 0
