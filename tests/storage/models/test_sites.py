import shutil
from pathlib import Path

from storage.batches.features import SCORED
from storage.models.sites import images_of_site, load_site
from tests.system.golden import make_golden as golden
from tests.system.golden import slides
from tests.system.golden.stores import VERSIONS, copied


def test_the_images_of_a_site_are_known_while_the_features_of_its_nights_are_here(
    tmp_path: Path,
) -> None:
    store = copied(VERSIONS[-1], tmp_path)
    card = load_site(store, slides.SITE)
    scored = golden.BLOCK.image_id[golden.BLOCK.status == SCORED]
    found = images_of_site(store, card)
    assert found.image_ids == {row.tobytes() for row in scored}
    assert len(found.image_ids) == len(scored) > 0
    assert found.unknown == ()
    night = card.nights[0].model_copy(update={"imported": True})
    taken = card.model_copy(update={"nights": [night]})
    assert images_of_site(store, taken) == (frozenset(), ("night",))
    shutil.rmtree(Path(store.path("features", "golden")))
    assert images_of_site(store, card) == (frozenset(), ("night",))
