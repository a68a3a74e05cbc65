import numpy as np
import pytest

from tasks.detector.moments import merge_statistics
from tasks.sites.bounds import UnfitError
from tasks.sites.foreign_statistics import checked_statistics, moved, reach_of
from tasks.sites.sharing import of_batch, shareable
from tests.support.crafted import KEY, statistics_at
from tests.support.models import CLASSES


def shared(seed: int, away: float = 0.0, slides: int = 5):
    found = shareable(statistics_at(seed, "there", slides), KEY)
    arrays = type(found)(found.taps, of_batch(found.slides, "there")).to_arrays()
    for name in arrays:
        if name.endswith("/raw/mean") or name.startswith("slides/means"):
            arrays[name] = np.where(arrays[name] != 0, arrays[name] + away, 0)
    return arrays, int(found.n.sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("away", [0.0, 10.0, -20.0])
def test_what_other_laboratories_share_is_taken_however_they_stain(seed: int, away: float) -> None:
    local = statistics_at(0, "here", 20)
    arrays, images = shared(seed + 1, away)
    found = checked_statistics("arrays", arrays, CLASSES, "there", images, local)
    assert found.n.sum() == images
    assert found.slides is not None
    assert {key.batch for key in found.slides.keys} == {"there"}


def test_what_no_laboratory_can_share_is_refused() -> None:
    local = statistics_at(0, "here", 20)
    for away in (200.0, -200.0, np.inf):
        arrays, images = shared(1, away)
        with pytest.raises(UnfitError, match=r"deviations away|finite"):
            checked_statistics("arrays", arrays, CLASSES, "there", images, local)
    arrays, images = shared(1)
    with pytest.raises(UnfitError, match="as the header says"):
        checked_statistics("arrays", arrays, CLASSES, "there", images + 1, local)
    with pytest.raises(UnfitError, match="the batch of a slide"):
        checked_statistics("arrays", arrays, CLASSES, "here", images, local)


def test_class_means_move_by_what_is_said() -> None:
    local = statistics_at(0, "here", 20)
    assert set(moved(local, local).values()) == {0.0}
    after = merge_statistics(local, statistics_at(1, "there", 20))
    for tap, found in moved(local, after).items():
        reach = reach_of(local.taps[tap])
        assert reach is not None
        away = np.abs(after.taps[tap].mean - local.taps[tap].mean) / reach.deviation
        assert found == away.max() > 0
