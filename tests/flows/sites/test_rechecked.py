"""What other stores gave before 0.4 is checked where it is kept, and can be taken out."""

from pathlib import Path

import numpy as np
import pytest

from flows.commands.status import verify
from flows.federation import export, import_file
from flows.settings import Settings
from storage.arrays import arrays_to_bytes
from storage.models.sites import find_site, load_site_arrays, save_site
from storage.models.statistics import (
    Contribution,
    latest_statistics,
    load_moments,
    save_foreign,
    save_statistics,
)
from storage.store import Store, digest_of
from tests.support.crafted import add_site, statistics_at, store_at


def damaged(store: Store) -> list[str]:
    return verify(settings=Settings(store=store.url)).damaged


@pytest.mark.parametrize(("value", "said"), [(np.nan, "finite"), (1e9, "within 30 deviations")])
def test_statistics_that_would_be_refused_today_are_named(
    value: float, said: str, tmp_path: Path
) -> None:
    store = store_at(tmp_path / "store")
    latest = latest_statistics(store, "tiny")
    assert latest is not None
    arrays = statistics_at(7, "far").to_arrays()
    arrays["early/raw/mean"][0, 0] = value
    given = Contribution(
        batch="far", attempt=1, manifest_digest="7" * 64, held_out=0,
        images=int(arrays["early/raw/n"].sum()),
        foreign=save_foreign(store, "tiny", arrays_to_bytes(arrays)),
    )  # fmt: skip
    moments = arrays_to_bytes(load_moments(store, latest))
    more = [*latest.contributions, given]
    known = {"version": 2, "parent": 1, "contributions": more, "digest": digest_of(moments)}
    save_statistics(store, latest.model_copy(update=known), moments)
    (line,) = damaged(store)
    assert line.startswith("statistics/tiny/foreign/")
    assert said in line
    assert "nothing was imported" not in line
    assert line.endswith("take it out with slidewatch retract --batch far --model tiny")


def test_a_site_that_would_be_refused_today_is_named(tmp_path: Path) -> None:
    there, store = store_at(tmp_path / "there"), store_at(tmp_path / "store")
    add_site(there)
    export(str(tmp_path / "file"), site="lab", settings=Settings(store=there.url))
    import_file(str(tmp_path / "file"), accept=True, settings=Settings(store=store.url))
    assert damaged(store) == []
    card = find_site(store, "lab")
    assert card is not None
    assert card.adaptation is not None
    turned = card.adaptation.model_copy(update={"scale": -1.0})
    content = arrays_to_bytes(load_site_arrays(store, card))
    store.remove(*card.folder)
    save_site(store, card.model_copy(update={"adaptation": turned}), content)
    (line,) = damaged(store)
    assert "adaptation: scale is -1.0" in line
    assert line.endswith("take it out with slidewatch retract --site lab")
