"""Files of other stores, as attackers make them: each is refused in a sentence, or does no harm."""

import copy
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows import federation
from flows.federation import export, import_file
from flows.settings import Settings
from flows.sites.description import Offer, SiteOutcome
from flows.sites.incoming import checked_arrays, checked_parts, merged_parts
from flows.sites.versions import SiteError, retract_site
from storage.arrays import Arrays, arrays_from_bytes, arrays_to_bytes
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.models.sites import find_site, load_site_arrays
from storage.models.statistics import latest_statistics, load_moments
from storage.models.transfers import HEADER, read_transfer, site_of
from storage.store import Store, StoreError
from tasks.detector.detector import fit_gaussians
from tasks.detector.mahalanobis import nearest_class_distance
from tasks.detector.moments import ClassStatistics, retract_statistics
from tasks.sites.learning import SiteNormal
from tests.support.crafted import Header, add_site, bytes_of, crafted, statistics_file, store_at
from tests.support.hostile import (
    GONE,
    SITE,
    STATISTICS,
    Change,
    array,
    field,
    place_and_value,
    put,
)
from tests.support.signed import allow, signature
from tests.support.sites import WIDTHS, of_site
from tests.support.slide_scores import score_slide

EXAMPLES = 120


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_at(tmp_path_factory.mktemp("here") / "store")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A valid file of statistics, and one of a site, of another store."""
    folder = tmp_path_factory.mktemp("files")
    there = store_at(folder / "there")
    add_site(there)
    export(str(folder / "site"), site="lab", settings=Settings(store=there.url))
    return {"statistics": statistics_file(there, folder / "statistics"), "site": folder / "site"}


@pytest.fixture(autouse=True)
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked, is checked before a worker is asked."""
    monkeypatch.setattr(federation, "open_client", lambda _: nullcontext())


@pytest.mark.parametrize(
    ("kind", "name"),
    [("statistics", name) for name in STATISTICS] + [("site", name) for name in SITE],
)
def test_a_hostile_file_is_refused_in_a_sentence_and_nothing_is_written(
    kind: str, name: str, here: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    change, said = {"statistics": STATISTICS, "site": SITE}[kind][name]
    bad, before = crafted(files[kind], tmp_path / "bad", change), bytes_of(here)
    with pytest.raises(StoreError, match=said) as error:
        import_file(str(bad), accept=True, settings=Settings(store=here.url))
    assert "\n" not in str(error.value)
    assert bytes_of(here) == before


def test_a_file_is_offered_before_it_is_accepted(
    here: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    before, settings = bytes_of(here), Settings(store=here.url)
    for kind, told in (("statistics", r"of \d,\d+ cells would be"), ("site", r"1\.5 x \+ 0\.5")):
        offer = import_file(str(files[kind]), settings=settings)
        assert isinstance(offer, Offer)
        assert offer.failed
        assert "nothing was changed" in offer.text()
        assert "--accept" in offer.text()
        assert re.search(told, offer.text())
    assert bytes_of(here) == before


def test_a_site_is_taken_as_it_was_and_without_a_score_of_a_cell(
    files: dict[str, Path], tmp_path: Path
) -> None:
    there = store_at(tmp_path / "there")
    origin = add_site(there)
    here = store_at(tmp_path / "here")
    taken = import_file(str(files["site"]), accept=True, settings=Settings(store=here.url))
    assert isinstance(taken, SiteOutcome)
    card = find_site(here, "lab")
    assert card is not None
    had, has = load_site_arrays(there, origin), load_site_arrays(here, card)
    assert had.keys() == has.keys()
    differing = {name for name in had if not np.array_equal(had[name], has[name], equal_nan=True)}
    assert differing == {"own/cells/scores", "own/cells/weights"}
    content = arrays_from_bytes(files["site"].read_bytes())
    assert not any("population" in name for name in content)
    assert not set(content["site/own/cells/scores"]) & set(had["own/cells/scores"])
    assert not any("labelled" in name or name.endswith("rows") for name in content)
    assert b"S01" not in files["site"].read_bytes()
    # Exported again it is the same file, but for its version's digest.
    export(str(tmp_path / "again"), site="lab", settings=Settings(store=here.url))
    again = arrays_from_bytes((tmp_path / "again").read_bytes())
    for name in content.keys() - {HEADER}:
        np.testing.assert_array_equal(again[name], content[name])


def test_an_imported_site_is_taken_out_and_leaves_no_byte(
    files: dict[str, Path], tmp_path: Path
) -> None:
    here = store_at(tmp_path / "here")
    settings, before = Settings(store=here.url), bytes_of(here)
    import_file(str(files["site"]), accept=True, settings=settings)
    with pytest.raises(StoreError, match="take it out first, slidewatch retract --site lab"):
        import_file(str(files["site"]), accept=True, settings=settings)
    _, changed = retract_site(here, "lab")
    assert "lab/v0003 taken out" in changed
    assert bytes_of(here, without="lease") == before
    assert find_site(here, "lab") is None
    import_file(str(files["site"]), accept=True, settings=settings)
    add_site(store_at(tmp_path / "own"))
    with pytest.raises(SiteError, match="commissioned here"):
        retract_site(Store(str(tmp_path / "own")), "lab")


def test_a_store_that_asks_for_signatures_takes_no_other_file(
    files: dict[str, Path], tmp_path: Path
) -> None:
    here, key = store_at(tmp_path / "here"), Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    allow(here, key)
    before, settings = bytes_of(here), Settings(store=here.url)
    for kind in ("statistics", "site"):
        file = tmp_path / kind
        file.write_bytes(files[kind].read_bytes())
        with pytest.raises(StoreError, match="takes signed files only"):
            import_file(str(file), accept=True, settings=settings)
        Path(f"{file}.sig").write_bytes(signature(key, file.read_bytes()))
        offer = import_file(str(file), settings=settings)
        assert isinstance(offer, Offer)
        assert offer.would["signed by"] == "kampala"
    assert bytes_of(here) == before
    import_file(str(tmp_path / "site"), accept=True, settings=settings)
    card = find_site(here, "lab")
    assert card is not None
    assert card.origin == "another store signed by kampala"


def test_a_file_of_before_which_has_what_the_detector_has_is_taken_as_well(
    here: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    detector = arrays_from_bytes(here.read_bytes("detectors", "tiny-v0001", "detector.safetensors"))
    known = {f"site/{name}": values for name, values in detector.items()
             if name.startswith(("own/population", "own/location", "own/cells/mean"))}  # fmt: skip
    assert known
    old = crafted(files["site"], tmp_path / "old", lambda _, arrays: arrays.update(known))
    assert isinstance(import_file(str(old), settings=Settings(store=here.url)), Offer)


def test_a_file_of_a_newer_slidewatch_is_named_as_such(
    here: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    new = crafted(files["site"], tmp_path / "new", field("schema_version", value=99))
    with pytest.raises(StoreError, match="written by a newer slidewatch"):
        import_file(str(new), settings=Settings(store=here.url))


def test_pseudonyms_of_two_stores_differ(tmp_path: Path) -> None:
    names = []
    for name in ("a", "b"):
        store = store_at(tmp_path / name)
        add_site(store)
        settings = Settings(store=store.url)
        for number in (1, 2):
            export(str(tmp_path / f"{name}{number}"), site="lab", settings=settings)
        written = [(tmp_path / f"{name}{n}").read_bytes() for n in (1, 2)]
        headers = [read_transfer("file", each)[0].site for each in written]
        assert headers[0] == headers[1]
        names.append(headers[0]["nights"][0]["negative"])
    assert not set(names[0]) & set(names[1])


POISON = st.sampled_from(
    [np.nan, np.inf, -np.inf, -1.0, 0.0, 0.5, 1e10, 1e300, -1e300, 1e-300, 5e-324]
)


@st.composite
def changes(draw: st.DrawFn, header: Header, arrays: Arrays) -> Change:
    """Draw a change of one field of the header, or of one array."""
    if draw(st.booleans()):
        path, value = draw(place_and_value(header))
        return _without(path) if value is GONE else field(*path, value=value)
    name = draw(st.sampled_from(sorted(arrays)))
    values = arrays[name]
    kind = draw(st.sampled_from(["poison", "scale", "shape", "missing", "again", "type", "order"]))
    if kind == "poison" and values.size:
        place = tuple(draw(st.integers(0, n - 1)) for n in values.shape)
        value = draw(POISON)
        return array(name, lambda x: put(x, place, np.asarray(value).astype(x.dtype)))
    if kind == "scale":
        factor = draw(st.sampled_from([-1.0, 1e-6, 0.5, 0.999, 1.001, 2.0, 1e3, 1e9]))
        return array(name, lambda x: (x * factor).astype(x.dtype))
    if kind == "missing":
        return lambda _, a: a.pop(name)
    if kind == "again":
        other = draw(
            st.sampled_from([f"{name}2", f"9/{name}", "x", f"{name}\x1b[2J", f"0/\n{name}"])
        )
        return lambda _, a: a.update({other: a[name]})
    if kind == "type":
        to = draw(st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]))
        return array(name, lambda x: x.astype(to))
    if kind == "order":
        return array(name, lambda x: x[::-1])
    return array(name, draw(st.sampled_from([np.ravel, np.transpose, lambda x: x[:-1],
                                             lambda x: x[None], lambda x: x[:0]])))  # fmt: skip


def _without(path: list[Any]) -> Change:
    def do(header: Header, _: Arrays) -> None:
        for part in path[:-1]:
            header = header[part]
        del header[path[-1]]

    return do


def drawn(files: dict[str, Path], kind: str, data: st.DataObject, target: Path) -> Path:
    arrays = arrays_from_bytes(files[kind].read_bytes())
    header = json.loads(arrays.pop(HEADER).tobytes())
    return crafted(files[kind], target, data.draw(changes(copy.deepcopy(header), arrays)))


def is_refused(bad: Path, here: Store) -> bool:
    """Import a file; True where it is refused, which leaves all bytes as they were."""
    before = bytes_of(here)
    try:
        with np.errstate(all="raise", under="ignore"):
            outcome = import_file(str(bad), settings=Settings(store=here.url))
    except StoreError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017
        outcome = None
    assert bytes_of(here) == before
    assert outcome is None or isinstance(outcome, Offer)
    return outcome is None


QUICK = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUICK
@given(data=st.data())
def test_whatever_is_changed_in_statistics_scores_stay_finite_or_nothing_is_written(
    data: st.DataObject, here: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    bad = drawn(files, "statistics", data, tmp_path / "bad")
    if is_refused(bad, here):
        return
    header, arrays = read_transfer("bad", bad.read_bytes())
    latest, card = latest_statistics(here, "tiny"), load_card(here, "tiny")
    assert latest is not None
    parts = checked_parts(here, header, arrays, card, latest)
    before = ClassStatistics.from_arrays(load_moments(here, latest))
    total = merged_parts(before, parts)
    features = {tap: np.random.default_rng(0).normal(size=(20, d)) for tap, d in WIDTHS.items()}
    for tap, gaussian in fit_gaussians(total).items():
        assert np.isfinite(nearest_class_distance(gaussian, features[tap])).all()
    for part in parts:
        total = retract_statistics(total, part.statistics)
    for tap, moments in before.taps.items():
        for name, values in vars(moments).items():
            found, size = getattr(total.taps[tap], name), np.abs(values).max()
            np.testing.assert_allclose(found, values, rtol=1e-9, atol=1e-9 * size)


@QUICK
@given(data=st.data())
def test_whatever_is_changed_in_a_site_scores_stay_finite_or_nothing_is_written(
    data: st.DataObject, here: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    bad = drawn(files, "site", data, tmp_path / "bad")
    if is_refused(bad, here):
        return
    header, arrays = read_transfer("bad", bad.read_bytes())
    detector = load_detector_card(here, "tiny-v0001")
    content, _ = checked_arrays(here, site_of(header), detector, arrays)
    normal = SiteNormal.from_arrays(arrays_from_bytes(content))
    for n in (80, 8):  # a slide with a reference of its own, and one that leans on the site
        (slide,) = of_site(1, 1, n)
        scores = score_slide(
            normal.own.priors, normal.own.calibration, slide.taps, slide.predicted,
            site=normal.reference,
        )  # fmt: skip
        assert np.isfinite(scores.abnormality).all()
        assert ((scores.p_value >= 0) & (scores.p_value <= 1)).all()


@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_a_file_that_is_cut_or_has_bits_turned_over_is_refused_in_a_sentence(
    data: st.DataObject, here: Store, files: dict[str, Path], tmp_path: Path
) -> None:
    content = bytearray(files[data.draw(st.sampled_from(["statistics", "site"]))].read_bytes())
    place = data.draw(
        st.integers(0, min(len(content) - 1, 6000)) | st.integers(0, len(content) - 1)
    )
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "bad").write_bytes(bytes(content))
    assert is_refused(tmp_path / "bad", here)


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
@pytest.mark.parametrize("where", ["safetensors", "header"])
def test_a_deep_nesting_is_no_crash(depth: int, where: str, here: Store, tmp_path: Path) -> None:
    deep = b"[" * depth + b"]" * depth
    if where == "header":
        content = arrays_to_bytes({HEADER: np.frombuffer(deep, np.uint8)})
    else:
        text = b'{"header":' + deep + b"}"
        content = len(text).to_bytes(8, "little") + text
    (tmp_path / "deep").write_bytes(content)
    assert is_refused(tmp_path / "deep", here)
