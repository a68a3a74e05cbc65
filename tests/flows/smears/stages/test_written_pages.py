"""Pages as the flow `screen` writes them: on rendered cells and real Dask workers."""

import shutil
from datetime import date
from pathlib import Path

import pytest

from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears import call as call_module
from flows.smears.night import NightOutcome, screen
from flows.smears.stages import written_pages
from storage.batches.manifests import load_batch
from storage.parquet import read_table
from storage.records import now
from storage.reports import tables
from storage.smears import answers, pages
from storage.store import Store
from tests.support.pages import Page

DAY = date(2026, 3, 5)


@pytest.fixture
def settings(tiny_ready: Settings) -> Settings:
    return tiny_ready.model_copy(update={"shard_rows": 8})


@pytest.fixture
def photos(cells: Path, tmp_path: Path) -> Path:
    """A night's images, of one's own to spoil."""
    return Path(shutil.copytree(cells / "Uninfected", tmp_path / "photos"))


def screened(photos: Path, settings: Settings) -> NightOutcome:
    return screen.fn(Screen(images=str(photos), batch="night", date=DAY), settings)


def test_a_screened_night_has_a_page_and_the_index_leads_to_it(
    photos: Path, settings: Settings
) -> None:
    outcome = screened(photos, settings)
    assert Path(outcome.page) == Path(settings.store) / "reports" / "html" / "night.html"
    assert outcome.page in outcome.text()
    page = Page(Path(outcome.page).read_text())
    images = page.of("img")
    assert len(images) >= outcome.images  # each is on a sheet
    text = " ".join("".join(page.text).split())
    assert outcome.detector in text
    command = f"slidewatch screen --images {photos} --store {settings.store} --batch night"
    assert command in text
    assert f"slidewatch review serve --batch night --store {settings.store}" in text
    index = Page(Path(Store(settings.store).path(*pages.INDEX)).read_text())
    assert "night.html" in [each["href"] for each in index.of("a")]


def test_a_missing_page_or_index_is_made_again_with_the_same_bytes(
    photos: Path, settings: Settings
) -> None:
    first = screened(photos, settings)
    stamp = Path(first.report).stat().st_mtime_ns
    for path in (Path(first.page), Path(first.page).with_name("index.html")):
        before = path.read_bytes()
        path.unlink()
        again = screened(photos, settings)
        assert again.repeated
        assert path.read_bytes() == before
    assert Path(first.report).stat().st_mtime_ns == stamp
    made = Path(again.page).stat().st_mtime_ns
    screened(photos, settings)
    assert Path(again.page).stat().st_mtime_ns == made


def test_a_page_that_could_not_be_written_is_made_by_the_same_command(
    photos: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is published by then, stays as it is, and the night is announced all the same."""
    announced: list[str] = []
    monkeypatch.setattr(
        call_module, "announce", lambda _, batch, *__, **___: not announced.append(batch.name)
    )

    def fails(*_: object) -> str:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(written_pages, "index_page", fails)
        kept = screened(photos, settings)
    assert announced == ["night"]
    assert (kept.failed, kept.scored, kept.page_failure) == (
        True,
        kept.images,
        "OSError: the disk is full",
    )
    assert "missing: OSError: the disk is full" in kept.text()
    assert Path(kept.report).exists()
    assert not list((Path(settings.store) / "reports").rglob("*.html"))
    outcome = screened(photos, settings)
    assert outcome.repeated
    assert Path(outcome.page).exists()
    assert announced == ["night", "night"]  # again, with its pictures


def test_a_page_of_an_older_report_is_replaced(photos: Path, settings: Settings) -> None:
    """So it is left by a run that ends between publishing the report and writing the page."""
    first = screened(photos, settings)
    old = Path(first.page).read_bytes()
    screen.fn(Screen(images=str(photos), batch="night", date=DAY, force=True), settings)
    assert Path(first.page).read_bytes() != old
    new = Path(first.page).read_bytes()
    Path(first.page).write_bytes(old)
    assert screened(photos, settings).repeated
    assert Path(first.page).read_bytes() == new


def test_a_page_is_made_again_once_a_person_has_answered(photos: Path, settings: Settings) -> None:
    first = screened(photos, settings)
    store = Store(settings.store)
    batch = load_batch(store, "night")
    report = read_table(store, *tables.report_path("night", DAY), columns=["image_id"])
    image = report["image_id"][0].as_py()
    reading = answers.Answer(reader="Ada", image_id=image, answer="other", at=now(), seconds=1.0)
    answers.add_answer(store, batch.key, reading, 0)
    assert screened(photos, settings).repeated
    answered = answers.digest_of_answers(store, batch.key)
    assert f'<meta name="slidewatch-answers" content="{answered}">' in Path(first.page).read_text()
    made = Path(first.page).stat().st_mtime_ns
    screened(photos, settings)
    assert Path(first.page).stat().st_mtime_ns == made  # nobody has answered since


def test_images_that_are_gone_have_placeholders(photos: Path, settings: Settings) -> None:
    first = screened(photos, settings)
    shutil.rmtree(photos)
    Path(first.page).unlink()
    assert screened(photos, settings).repeated
    page = Page(Path(first.page).read_text())
    assert not page.of("img")
    assert "the image cannot be read any more" in "".join(page.text)


def test_a_batch_called_index_keeps_its_page_beside_the_index(
    photos: Path, settings: Settings
) -> None:
    outcome = screen.fn(Screen(images=str(photos), batch="index", date=DAY), settings)
    assert Path(outcome.page).name == "index~.html"
    index = Path(Store(settings.store).path(*pages.INDEX)).read_text()
    assert 'href="index~.html"' in index
