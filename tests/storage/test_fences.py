"""A run that stalled and comes back after another has taken its lease over changes nothing."""

import asyncio
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from storage import disk, leases, objects
from storage.batches.features import create_features
from storage.batches.manifests import Batch
from storage.leases import LeaseLostError, lease, sweep
from storage.models.statistics import latest_statistics, load_moments, save_statistics
from storage.parquet import write_parts
from storage.store import AlreadyExistsError, Store, StoreError
from tests.support.cards import lineage, moments
from tests.support.needs import lacking
from tests.support.stalls import NEVER, Moments, taken_over

NIGHT = ("batches", "night")
DAY = 24 * 3600


def make_features(store: Store) -> None:
    night = Batch.model_construct(name="night", rows=4, shard_rows=2, manifest_digest="m")
    create_features(
        store, "tiny", night, tap_widths={"layer1": 2}, classes=["a", "b"], digest="w", decoding=1
    )


def write_table(store: Store) -> None:
    parts = (pa.table({"a": [number]}) for number in range(3))
    write_parts(store, pa.schema([("a", pa.int64())]), parts, "reports", "new.parquet")


# What a run may do, and where that has only a check before it on S3.
WRITES: dict[str, tuple[Callable[[Store], object], bool]] = {
    "replace": (lambda store: store.write_bytes(b"late", "reports", "file"), True),
    "create": (lambda store: store.write_bytes(b"late", "reports", "new"), True),
    "create once": (lambda store: store.write_bytes(b"late", "reports", "new", once=True), False),
    "write a table": (write_table, True),
    "remove a file": (lambda store: store.remove("reports", "file"), False),
    "remove a folder": (lambda store: store.remove("reports"), False),
    "make features": (make_features, False),
}


def files(store: Store) -> dict[str, bytes]:
    """Everything in a store but leases and stages."""
    paths = (path.removeprefix(f"{store.root}/") for path in store.fs.find(store.root))
    return {
        path: store.read_bytes(path)
        for path in paths
        if "/lease/" not in path and not path.startswith(".staged")
    }


@pytest.mark.parametrize("what", WRITES)
def test_a_write_that_stalls_right_before_it_appears_is_lost(any_store: Store, what: str) -> None:
    write, is_conditional = WRITES[what]
    if not (any_store.is_local or (is_conditional and objects.is_conditional(any_store.fs))):
        lacking("condition", "an object store knows none for it")
    any_store.write_bytes(b"old", "reports", "file")
    after = dict[str, bytes]()

    def successor() -> None:
        with taken_over(any_store, *NIGHT) as held:
            for name in ("file", "new", "new.parquet"):
                held.store.write_bytes(b"the successor's", "reports", name)
        after.update(files(any_store))

    with (
        lease(any_store, *NIGHT, beat=NEVER) as stalled,
        Moments(0, successor).watched(),
        pytest.raises(LeaseLostError, match=r"taken over by .* \(process .* at .* UTC"),
    ):
        write(stalled.store)
    assert files(any_store) == after


@pytest.mark.parametrize("what", WRITES)
def test_a_write_that_begins_after_the_lease_was_lost_is_refused(
    any_store: Store, what: str
) -> None:
    """And no stage is made for it again, by no code such as zarr's that makes folders."""
    any_store.write_bytes(b"old", "reports", "file")
    with lease(any_store, *NIGHT, beat=NEVER) as stalled:
        with taken_over(any_store, *NIGHT):
            pass
        before = files(any_store)
        with pytest.raises(LeaseLostError, match=r"taken over by .* \(process .* at .* UTC"):
            WRITES[what][0](stalled.store)
        assert not list(Path(any_store.path(".staged")).glob("*"))
    assert files(any_store) == before


@pytest.mark.parametrize("what", WRITES)
def test_a_holder_does_what_any_run_does(any_store: Store, tmp_path: Path, what: str) -> None:
    plain = Store(str(tmp_path / "plain"))
    for store in (any_store, plain):
        store.write_bytes(b"old", "reports", "file")
    WRITES[what][0](plain)
    with lease(any_store, *NIGHT) as held:
        WRITES[what][0](held.store)
    assert files(any_store) == files(plain)
    assert not list(Path(any_store.path(".staged")).glob("*"))


def test_a_taker_that_stalls_before_its_stage_is_there_has_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor could not remove the folder that it makes so late."""
    make_folder = disk.make_folder

    def stalls(folder: Path) -> None:
        if "~" in folder.name:
            monkeypatch.undo()
            with taken_over(store, *NIGHT):
                pass
        make_folder(folder)

    monkeypatch.setattr(disk, "make_folder", stalls)
    with pytest.raises(LeaseLostError, match="taken over"), lease(store, *NIGHT, beat=NEVER):
        pass
    assert list(Path(store.path(".staged")).iterdir()) == []


def test_what_a_stalled_run_put_in_between_is_put_again(s3_bucket: str, tmp_path: Path) -> None:
    """Its PUT is refused where it comes too late, but here it came just before ours."""
    store = Store(f"{s3_bucket}/{tmp_path.name}")
    store.write_bytes(b"old", "reports", "file")
    other = Store(store.url)
    stalled = Moments(0, lambda: other.write_bytes(b"a stalled run's", "reports", "file"))
    with lease(store, *NIGHT, beat=NEVER) as held, stalled.watched():
        held.store.write_bytes(b"ours", "reports", "file")
    assert store.read_bytes("reports", "file") == b"ours"
    # At the third time somebody writes who asks no lease.
    count = iter(range(9))
    always = Moments(each=lambda: other.write_bytes(b"%d" % next(count), "reports", "file"))
    with (
        lease(store, *NIGHT, beat=NEVER) as held,
        always.watched(),
        pytest.raises(OSError, match=r"pre-?condition"),
    ):
        held.store.write_bytes(b"ours", "reports", "file")


def test_a_version_that_a_stalled_run_sealed_late_is_that_of_its_successor(
    s3_bucket: str, tmp_path: Path
) -> None:
    """An object store creates a missing object however late; it must not describe another file."""
    store = Store(f"{s3_bucket}/{tmp_path.name}")
    stalled_one = lineage(1, "stalled").model_copy(update={"operation": "a stalled run's"})

    def late() -> None:
        stalled_one.write(Store(store.url), "statistics", "tiny", "v0001", "lineage.json")

    with lease(store, "statistics", "tiny", beat=NEVER) as held, Moments(1, late).watched():
        save_statistics(held.store, lineage(1, "ours"), moments(1))
    found = latest_statistics(store, "tiny")
    assert found == lineage(1, "ours")
    load_moments(store, found)


def test_once_is_refused_to_a_holder_as_to_others(any_store: Store) -> None:
    any_store.write_bytes(b"first", "reports", "file")
    with lease(any_store, *NIGHT) as held, pytest.raises(AlreadyExistsError):
        held.store.write_bytes(b"second", "reports", "file", once=True)
    assert any_store.read_bytes("reports", "file") == b"first"


def test_an_error_of_the_block_is_no_lost_lease(store: Store) -> None:
    with lease(store, *NIGHT) as held:
        with pytest.raises(FileNotFoundError, match="of the block"), held.store.staged("file"):
            raise FileNotFoundError("of the block")
        assert list(Path(store.path(".staged", held.stage)).iterdir()) == []
        held.store.write_bytes(b"", "file")


def test_workers_get_the_store_without_its_fence(store: Store) -> None:
    with lease(store, *NIGHT, beat=NEVER) as stalled:
        there = pickle.loads(pickle.dumps(stalled.store))
        assert there == stalled.store == store
        with taken_over(store, *NIGHT):
            pass
        there.write_bytes(b"a shard", "file")
    assert store.read_bytes("file") == b"a shard"


def test_leases_of_other_things_keep_their_stages(store: Store) -> None:
    with (
        lease(store, *NIGHT) as night,
        lease(store, "batches", "night-2") as other,
        lease(store, "reports") as reports,
        taken_over(store, *NIGHT),
    ):
        other.store.write_bytes(b"", "file")
        reports.store.write_bytes(b"", "file")
        with pytest.raises(LeaseLostError):
            night.store.write_bytes(b"", "file")


# Leftovers


def leave(store: Store, name: str, age: float) -> Path:
    path = Path(store.path(".staged", name))
    path.parent.mkdir(parents=True, exist_ok=True)
    if "~" in name:
        path.mkdir()
        (path / "staged-1").write_bytes(b"half")
    else:
        path.write_bytes(b"half")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_what_killed_runs_leave_is_swept_a_day_later(store: Store) -> None:
    """Also what versions of before the fences have left."""
    old = [leave(store, name, DAY + 60) for name in ("staged-1", "removed-1", "batches~x~000001~a")]
    new = [leave(store, name, DAY - 60) for name in ("staged-2", "removed-2", "batches~x~000002~a")]
    with lease(store, *NIGHT) as held:
        os.utime(store.path(".staged", held.stage), (0, 0))  # it computes for longer than a day
        assert not any(path.exists() for path in old)
        assert all(path.exists() for path in new)
        leave(store, "staged-3", DAY + 60)
        assert sweep(store) == 1
        held.store.write_bytes(b"", "file")
    assert sorted(path.name for path in Path(store.path(".staged")).iterdir()) == sorted(
        path.name for path in new
    )


@pytest.mark.parametrize(("ago", "swept"), [(DAY + 60, 1), (3600.0, 0)])
def test_a_stage_of_another_boot_is_swept_when_its_lease_ran_out_a_day_ago(
    store: Store, ago: float, swept: int
) -> None:
    """Nobody can ask that process: the disk's own clock says when it renewed its lease last."""
    leave(store, "batches~x~000001~a", DAY + 60)
    holder = leases._this_process().model_copy(update={"processes": "another boot"})
    record = leases.LeaseRecord(holder=holder, taken_at=leases._now(), expires_at=leases._now())
    record.write(store, *(place := ("batches", "x", "lease", "000001.json")))
    os.utime(store.path(*place), (time.time() - ago, time.time() - ago))
    assert sweep(store) == swept


def test_who_takes_over_from_a_killed_run_removes_its_stage(store: Store) -> None:
    left = leave(store, "batches~night~000001~killed", 0)
    other = leave(store, "batches~other~000001~killed", 0)
    with lease(store, *NIGHT):
        assert not left.exists()
        assert other.exists()


def test_a_sweep_that_may_not_remove_hinders_no_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's file, in a folder that both may write to."""
    leave(store, "staged-1", DAY + 60)

    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("storage.disk.discard", forbidden)
    with lease(store, *NIGHT) as held:
        held.check()


def test_a_stage_of_a_lease_whose_record_is_damaged_is_left(store: Store) -> None:
    left = leave(store, "batches~x~000001~a", DAY + 60)
    store.write_bytes(b"{", "batches", "x", "lease", "000001.json")
    assert sweep(store) == 0
    assert left.exists()
    store.remove("batches", "x", "lease")
    assert sweep(store) == 1


def test_a_store_error_names_a_stage_that_nobody_took(store: Store) -> None:
    with lease(store, *NIGHT) as held:
        Path(store.path(".staged", held.stage)).rmdir()
        with pytest.raises(StoreError, match=r"nobody took over: leave \.staged alone"):
            held.store.write_bytes(b"", "file")


def test_an_object_that_a_server_refuses_is_named() -> None:
    """S3 answers "Forbidden" alone."""

    class Refusing:
        async def _call_s3(self, method: str, *_: object, **options: str) -> None:
            raise PermissionError("Forbidden")

    server = Refusing()
    for _ in range(2):  # stores on one server
        objects.name_refused(server)
    with pytest.raises(PermissionError, match="Forbidden") as caught:
        asyncio.run(server._call_s3("get_object", Bucket="bucket", Key="store/card.json"))
    assert caught.value.filename == "s3://bucket/store/card.json"
    assert caught.value.strerror == "Forbidden"
