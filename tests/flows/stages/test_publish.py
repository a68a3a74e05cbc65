"""A batch that is published again: of one attempt at every moment, and never by a stalled run."""

import pickle
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from distributed import Client

from flows.cluster.client import Here
from flows.commands.status import status
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.scores import ScoreJob, score_part
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob, run_shard
from flows.options.tools import Status
from flows.settings import Settings
from flows.smears.stages.calling import call_batch, nights_before, valid_call
from flows.stages import scoring
from flows.stages.publish import publish, valid_seal
from storage.batches.kinds import batch_checks
from storage.batches.ledger import Screening, discard_scores, note_announced
from storage.batches.manifests import load_batch
from storage.leases import Lease, LeaseLostError, lease
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.parquet import read_footer
from storage.reports import tables
from storage.smears import pages
from storage.smears.schemas.fields import FIELD_REPORT_SCHEMA
from storage.store import Store, StoreError
from tasks.images.listing import list_images
from tests.support import models, reports, stalls
from tests.support.shards import SHARD_ROWS, Night, add_detector, freeze_night, start

DAY = date(2026, 1, 3)
KINDS = (tables.IMAGES, tables.FIELDS, tables.SLIDES, tables.BATCHES)
PAGE = pages.page_path("night")
OWN = {f"batches/night~2/{kind}/d.json" for kind in ("sealed", "called", "announced")}
OWN |= {"batches/night~2/slides/d.parquet"}


class Elsewhere(Here):
    """Runs jobs as workers get them: without the fence of the run's store."""

    def map(self, work: Callable[[Any], Any], jobs: Iterable[Any], **_: Any) -> Any:
        return super().map(work, pickle.loads(pickle.dumps(jobs)))


def score(store: Store, attempt: int) -> None:
    """Score the shards of an attempt, as the stages before do on a cluster."""
    batch, detector = load_batch(store, "night", attempt), load_detector_card(store)
    card = load_card(store, "tiny")
    for shard in batch.shards():
        run_shard(ShardJob(store, batch, shard, card))
    for part in plan_parts(store, batch, by_slide=False):
        score_part(ScoreJob(Screened(store, batch, card, detector), part, models.WHEN))
    parts = ("batches", batch.key, "screenings", "d.json")
    Screening(scored_at=models.WHEN).write(store, *parts)


def start_again(store: Store, images: Path, attempt: int) -> None:
    manifest = list_images(str(images), classes=models.CLASSES).slice(0, 24 - attempt)
    card = load_card(store, "tiny")
    freeze_night(store, manifest, "night", card, SHARD_ROWS, str(images), attempt=attempt)


def publish_attempt(store: Store, attempt: int) -> None:
    """Publish an attempt that is scored: reports, seal, page and announcement."""
    batch, detector = load_batch(store, "night", attempt), load_detector_card(store)
    settings, client = Settings(store=store.url), cast(Client, Elsewhere())
    seal = valid_seal(store, batch, "d")
    of = Screened(store, batch, load_card(store, "tiny"), detector)
    if seal is None:
        seal = publish(client, of, scoring.score(client, of))
    discard_scores(store, batch, "d")
    assert valid_seal(store, batch, "d") == seal
    if valid_call(store, batch, seal) is None:
        call_batch(client, of, settings, seal)
    store.write_bytes(b"the page of attempt %d" % attempt, *PAGE)
    note_announced(store, batch, seal)


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory, _store_with_model: Store, cells: Path
) -> Path:
    """A store with a published night, which had fields, and two more attempts that are scored."""
    folder = tmp_path_factory.mktemp("published") / "store"
    shutil.copytree(_store_with_model.root, folder)
    store = Store(str(folder))
    add_detector(Night(store, start(store, cells).batch, load_card(store, "tiny")))
    score(store, 1)
    publish_attempt(store, 1)
    fields = pa.Table.from_pylist([{"batch": "night"}], schema=FIELD_REPORT_SCHEMA)
    reports.publish_report(
        store,
        tables.report_path("night", DAY, tables.FIELDS),
        tables.of_attempt(FIELD_REPORT_SCHEMA, 1),
        [fields],
    )
    for attempt in (2, 3):
        start_again(store, cells, attempt)
        score(store, attempt)
    # Publishing does without, and a store is quicker to copy.
    store.remove("features")
    return folder


@pytest.fixture(params=["some", *(pytest.param(n, marks=pytest.mark.slow) for n in ("all", "s3"))])
def anew(request: pytest.FixtureRequest, published: Path, tmp_path: Path) -> Callable[[], Store]:
    """Makes the published store anew each time it is called."""
    count = iter(range(10_000))
    if request.param != "s3":
        return lambda: Store(str(shutil.copytree(published, tmp_path / str(next(count)))))
    bucket = request.getfixturevalue("s3_bucket")

    def upload() -> Store:
        store = Store(f"{bucket}/{tmp_path.name}/{next(count)}")
        store.fs.put(f"{published}/", f"{store.root}/", recursive=True)
        return store

    return upload


@pytest.fixture
def step(anew: object, request: pytest.FixtureRequest) -> int:
    """The number of moments to go on: each one takes as long as several publications."""
    return 4 if request.node.callspec.params["anew"] == "some" else 1


def attempts_seen(store: Store) -> set[int]:
    """The attempts that rows of the night's tables, and its page, are of."""
    found = set()
    for kind in KINDS:
        path = tables.report_path("night", DAY, kind)
        if store.exists(*path):
            footer = read_footer(store, *path)
            found |= {int(footer.metadata[tables.ATTEMPT])} if footer.num_rows else set()
    page = store.read_bytes(*PAGE)
    return found | ({int(page[-1:])} if b"being replaced" not in page else set())


def files(store: Store) -> dict[str, bytes]:
    """Everything in a store but stages, leases and what workers have made of parts."""
    paths = (path.removeprefix(f"{store.root}/") for path in store.fs.find(store.root))
    return {
        path: store.read_bytes(path)
        for path in paths
        if not path.startswith(".staged") and not {"lease", "scores"} & set(path.split("/"))
    }


def killed() -> None:
    raise KeyboardInterrupt


def test_of_a_night_that_is_published_again_all_that_is_visible_is_of_one_attempt(
    anew: Callable[[], Store], step: int
) -> None:
    """Also where the run is killed at any moment, and once more while it resumes."""
    store = anew()
    assert attempts_seen(store) == {1}
    seen = list[set[int]]()
    with (
        lease(store, "batches", "night", beat=stalls.NEVER) as held,
        stalls.Moments(each=lambda: seen.append(attempts_seen(store))).watched() as moments,
    ):
        publish_attempt(held.store, 2)
    assert all(len(each) <= 1 for each in seen)
    assert {frozenset(each) for each in seen} == {frozenset({1}), frozenset({2})}
    wanted = files(store)
    assert store.read_bytes(*PAGE) == b"the page of attempt 2"
    counts = {
        kind: read_footer(store, *tables.report_path("night", DAY, kind)).num_rows for kind in KINDS
    }
    assert counts[tables.FIELDS] == 0
    assert counts[tables.IMAGES] == 22
    for at in range(0, moments.count, step):
        trial = anew()
        for again in (at, at // 2):
            with (
                suppress(KeyboardInterrupt),
                lease(trial, "batches", "night", beat=stalls.NEVER) as held,
                stalls.Moments(again, killed).watched(),
            ):
                publish_attempt(held.store, 2)
                assert again == at // 2  # what is left may be fewer
            assert len(attempts_seen(trial)) <= 1
        publish_attempt(trial, 2)
        assert files(trial) == wanted
    print(f"{moments.count} moments, {2 * moments.count} kills, 0 mixed attempts")


def test_a_run_that_stalls_at_any_moment_of_its_publication_changes_nothing(
    anew: Callable[[], Store], step: int
) -> None:
    """On S3 it may yet write files that none is in place of: those of its own attempt's folder."""

    def publish_as(held: Lease, moments: stalls.Moments) -> int:
        with moments.watched():
            publish_attempt(held.store, 2)
        held.check()
        return moments.count

    with lease(anew(), "batches", "night", beat=stalls.NEVER) as held:
        total, lost = publish_as(held, stalls.Moments()), 0
    for at in range(0, total, step):
        store, after = anew(), dict[str, bytes]()

        def successor(store: Store = store, after: dict[str, bytes] = after) -> None:
            with stalls.taken_over(store, "batches", "night") as held:
                publish_attempt(held.store, 3)
            after |= files(store)

        with (
            lease(store, "batches", "night", beat=stalls.NEVER) as stalled,
            pytest.raises(LeaseLostError, match=r"taken over by .* \(process .* at .* UTC"),
        ):
            publish_as(stalled, stalls.Moments(at, successor))
        late = {path for path, content in files(store).items() if after.get(path) != content}
        assert not late if store.is_local else late <= OWN
        assert after.keys() <= files(store).keys()
        assert attempts_seen(store) == {3}
        lost += 1
    print(f"{total} moments, {lost} stalled runs ended, 0 bytes changed")


def test_reports_that_are_being_replaced_are_not_published(published: Path, tmp_path: Path) -> None:
    """A run died after it had withdrawn the old reports and put the new one on images."""
    store = Store(str(shutil.copytree(published, tmp_path / "store")))
    settings = Settings(store=store.url)
    assert tables.published_batch(store, "night").attempt == 1
    with stalls.Moments(8, killed).watched(), pytest.raises(KeyboardInterrupt):
        publish_attempt(store, 2)
    assert attempts_seen(store) == {2}
    with pytest.raises(StoreError, match=r"night are being replaced.*screen again"):
        tables.published_batch(store, "night")
    assert list(tables.newest_batches(store, lambda _: True)) == []
    assert nights_before(store, date.max, 9) == []
    assert [row["light"] for row in status(Status(), settings).batches] == [None]
    for check in batch_checks(store, "night"):
        if check.path.startswith("reports/"):
            check.verify()
    publish_attempt(store, 2)
    assert tables.published_batch(store, "night").attempt == 2


def test_a_damaged_report_is_no_withdrawn_one(published: Path, tmp_path: Path) -> None:
    store = Store(str(shutil.copytree(published, tmp_path / "store")))
    store.write_bytes(b"cut short", *tables.report_path("night", DAY, tables.BATCHES))
    assert tables.published_batch(store, "night").attempt == 1


def test_the_same_reports_are_left_as_they_are(published: Path, tmp_path: Path) -> None:
    """A power cut took the seal, and nothing else: no reader sees the reports go and come."""
    store = Store(str(shutil.copytree(published, tmp_path / "store")))
    publish_attempt(store, 2)
    before = {kind: store.modified(*tables.report_path("night", DAY, kind)) for kind in KINDS}
    store.remove("batches", "night~2", "sealed")
    for kind in ("scores", "shifts"):
        parts = Path(store.path("batches", "night~2", kind))
        shutil.copytree(published / "batches" / "night~2" / kind, parts, dirs_exist_ok=True)
    publish_attempt(store, 2)
    assert {
        kind: store.modified(*tables.report_path("night", DAY, kind)) for kind in KINDS
    } == before


def test_a_run_whose_stages_somebody_has_cleared_says_so(published: Path, tmp_path: Path) -> None:
    store = Store(str(shutil.copytree(published, tmp_path / "store")))

    def publish_as(held: Lease) -> None:
        shutil.rmtree(store.path(".staged"))
        publish_attempt(held.store, 2)

    with (
        lease(store, "batches", "night") as held,
        pytest.raises(StoreError, match=r"nobody took over.*run the same command again"),
    ):
        publish_as(held)
    assert attempts_seen(store) == {1}
