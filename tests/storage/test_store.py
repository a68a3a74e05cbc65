import errno
import json
import os
import pickle
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import s3fs
from hypothesis import given
from hypothesis import strategies as st

from storage.store import AlreadyExistsError, Store, StoreError, check_name
from tests.support.faults.disks import memory_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no text that a file could hold.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


def files(store: Store) -> dict[str, bytes]:
    """Everything in a store, hidden or not, by path."""
    found = store.fs.find(store.root) if store.fs.exists(store.root) else []
    return {path.removeprefix(f"{store.root}/"): store.fs.cat_file(path) for path in found}


def test_what_is_written_is_read_back(any_store: Store) -> None:
    any_store.write_bytes(b"one", "folder", "file")
    any_store.write_bytes(b"two", "folder", "file")
    assert any_store.read_bytes("folder", "file") == b"two"
    assert any_store.exists("folder", "file")
    assert any_store.exists("folder")
    assert files(any_store) == {"folder/file": b"two"}


def test_a_block_that_raises_leaves_the_target_untouched_and_no_stage(any_store: Store) -> None:
    any_store.write_bytes(b"old", "folder", "file")

    def fail(*parts: str) -> Path:
        with any_store.staged(*parts) as stage:
            stage.write_bytes(b"half of the ne")
            raise InterruptedError(stage)

    for parts in (("folder", "file"), ("folder", "other"), ("new folder", "file")):
        with pytest.raises(InterruptedError) as caught:
            fail(*parts)
        assert not caught.value.args[0].exists()
    assert files(any_store) == {"folder/file": b"old"}


def test_a_store_that_is_only_read_is_named_and_other_errors_stay(tmp_path: Path) -> None:
    def fail(store: Store) -> None:
        with store.stage():
            raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere")

    with memory_of(1, tmp_path / "disk") as disk:
        store = Store(str(disk / "store"))
        store.write_bytes(b"1", "file")
        with pytest.raises(PermissionError, match="/elsewhere"):
            fail(store)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreError, match=r"/store cannot be written \(Read-only file system"):
            store.write_bytes(b"2", "file")
        assert store.read_bytes("file") == b"1"


def test_nothing_is_in_the_store_until_the_block_ends(any_store: Store) -> None:
    with any_store.staged("folder", "file") as stage:
        stage.write_bytes(b"half")
        assert not any_store.exists("folder", "file")
        assert any_store.names("folder") == []
    assert any_store.names("folder") == ["file"]


def test_a_stage_never_lies_in_a_folder_that_readers_scan(store: Store) -> None:
    Path(store.path("reports")).mkdir(parents=True)
    with store.staged("reports", "file") as stage:
        stage.write_bytes(b"half")
        assert list(Path(store.path("reports")).iterdir()) == []


@pytest.mark.parametrize("once", [False, True])
def test_a_file_and_the_folders_that_name_it_are_synced_before_a_write_returns(
    store: Store, synced: list[str], once: bool
) -> None:
    """A rename outlives a power cut only once the folder is synced, and so does a new folder."""
    store.write_bytes(b"content", "batches", "night", "batch.json", once=once)
    root = store.root
    # Folders that new folders are named in; the folder of the file itself comes last.
    assert {str(Path(root).parent), root, f"{root}/batches"} <= set(synced)
    assert synced[-1] == f"{root}/batches/night"
    assert any("/.staged/" in path for path in synced[:-1])
    synced.clear()
    store.write_bytes(b"more", "batches", "night", "other.json", once=once)
    assert len(synced) == 2  # the file and its folder, and no folder above


def test_a_folder_that_other_code_staged_appears_whole_and_synced(
    store: Store, synced: list[str]
) -> None:
    store.write_bytes(b"old", "features", "night.zarr", "old")
    synced.clear()
    with store.stage() as stage:
        (stage / "tap").mkdir(parents=True)
        (stage / "tap" / "zarr.json").write_bytes(b"{}")
        store.reveal_folder(stage, "features", "night.zarr")
    assert files(store) == {"features/night.zarr/tap/zarr.json": b"{}"}
    assert {path.rpartition("/")[2] for path in synced} >= {"zarr.json", "tap", "features"}
    assert synced[-1] == store.path("features")


def test_once_refuses_a_second_write_and_keeps_the_first(any_store: Store) -> None:
    any_store.write_bytes(b"first", "folder", "file", once=True)
    with pytest.raises(AlreadyExistsError, match="folder/file is there already"):
        any_store.write_bytes(b"second", "folder", "file", once=True)
    assert files(any_store) == {"folder/file": b"first"}


def test_of_many_that_write_once_at_the_same_time_exactly_one_succeeds(shared_store: Store) -> None:
    writers = 6
    for turn in range(10):
        start = threading.Barrier(writers)

        def write(writer: int, turn: int = turn, start: threading.Barrier = start) -> bool:
            start.wait()
            try:
                shared_store.write_bytes(b"%d" % writer, "folder", str(turn), once=True)
            except AlreadyExistsError:
                return False
            return True

        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(write, range(writers)))
        assert won.count(True) == 1
        assert shared_store.read_bytes("folder", str(turn)) == b"%d" % won.index(True)


def test_a_refusal_in_other_words_is_one_only_where_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"memory://{tmp_path.name}")
    store.write_bytes(b"first", "there")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "At least one of the pre-conditions did not hold")

    monkeypatch.setattr(store.fs, "pipe_file", refuse)
    with pytest.raises(AlreadyExistsError):
        store.write_bytes(b"second", "there", once=True)
    with pytest.raises(OSError, match="pre-conditions"):
        store.write_bytes(b"first", "not there", once=True)


def test_what_another_process_does_is_seen_at_once(shared_store: Store) -> None:
    # Another process has a filesystem object, and so a memory of listings, of its own.
    theirs = fsspec.filesystem(shared_store.fs.protocol[0], skip_instance_cache=True)
    shared_store.write_bytes(b"old", "folder", "a")
    path = shared_store.path("folder")

    assert shared_store.names("folder") == ["a"]
    theirs.pipe_file(f"{path}/a", b"new and longer")
    with shared_store.open("folder", "a") as file:
        assert file.read() == b"new and longer"
    assert shared_store.read_bytes("folder", "a") == b"new and longer"

    assert shared_store.names("folder") == ["a"]
    theirs.pipe_file(f"{path}/b", b"")
    assert shared_store.names("folder") == ["a", "b"]

    theirs.rm(f"{path}/b")
    assert not shared_store.exists("folder", "b")
    assert shared_store.names("folder") == ["a"]
    theirs.rm(path, recursive=True)
    assert not shared_store.exists("folder")
    assert shared_store.names("folder") == []


def test_no_more_than_a_piece_is_fetched(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"{s3_bucket}/{tmp_path.name}")
    store.write_bytes(bytes(1_000_000), "file")
    fetched = []
    fetch = s3fs.S3File._fetch_range

    def spy(file: s3fs.S3File, start: int, end: int) -> bytes:
        fetched.append((start, end))
        return fetch(file, start, end)

    monkeypatch.setattr(s3fs.S3File, "_fetch_range", spy)
    with store.open("file") as file:
        file.seek(500)
        file.read(10)
    assert fetched == [(500, 510)]


def test_an_object_that_stands_for_a_folder_is_no_name_in_it(
    s3_bucket: str, tmp_path: Path
) -> None:
    store = Store(f"{s3_bucket}/{tmp_path.name}")
    store.fs.pipe_file(store.path("folder") + "/", b"")
    assert store.names("folder") == []
    store.write_bytes(b"", "folder", "file")
    assert store.names("folder") == ["file"]


def test_names_are_sorted_and_hide_what_begins_with_a_dot_or_an_underscore(
    any_store: Store,
) -> None:
    for name in ("b", "a", "10", ".hidden", "_staged"):
        any_store.write_bytes(b"", "folder", name)
    any_store.write_bytes(b"", "folder", "sub", "file")
    assert any_store.names("folder") == ["10", "a", "b", "sub"]
    assert any_store.names("no such folder") == []


def test_a_missing_file_is_named_in_full(any_store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        any_store.read_bytes("folder", "file")
    assert any_store.address("folder", "file") in str(caught.value)


def test_removing_takes_all_and_forgives_what_is_absent(any_store: Store) -> None:
    any_store.write_bytes(b"", "folder", "sub", "file")
    any_store.write_bytes(b"", "folder 2", "file")
    any_store.remove("folder")
    any_store.remove("folder")
    assert files(any_store) == {"folder 2/file": b""}


@given(data=JSON)
def test_equal_data_are_the_same_bytes_whatever_the_order_of_keys(
    tmp_path_factory: pytest.TempPathFactory, data: object
) -> None:
    def turned(value: object) -> object:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(each) for each in value] if isinstance(value, list) else value

    store = Store(str(tmp_path_factory.getbasetemp() / "json"))
    store.write_json(data, "a.json")
    store.write_json(turned(data), "b.json")
    assert store.read_bytes("a.json") == store.read_bytes("b.json")
    assert store.read_json("a.json") == data


def test_a_number_that_json_does_not_know_is_refused_before_anything_is_written(
    any_store: Store,
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        any_store.write_json({"loss": float("nan")}, "card.json")
    assert files(any_store) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1}}'])
def test_damaged_json_is_named(any_store: Store, content: bytes) -> None:
    any_store.write_bytes(content, "folder", "card.json")
    with pytest.raises(StoreError, match=r"folder/card\.json is not valid JSON"):
        any_store.read_json("folder", "card.json")


def test_a_store_travels_to_a_worker(any_store: Store) -> None:
    any_store.write_bytes(b"content", "file")
    there = pickle.loads(pickle.dumps(any_store))
    assert there == any_store
    assert hash(there) == hash(any_store)
    assert there.read_bytes("file") == b"content"


def test_a_relative_store_is_the_same_folder_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    store.write_bytes(b"content", "file")
    sent = pickle.dumps(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(sent).read_bytes("file") == b"content"


def test_urls_of_one_folder_are_one_store(tmp_path: Path) -> None:
    urls = (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}")
    assert len({Store(url) for url in urls}) == 1
    assert Store(str(tmp_path)).address("a", "b") == str(tmp_path / "a" / "b")
    assert Store("memory://root").address("a", "b") == "memory:///root/a/b"


def test_writers_leave_no_file_that_others_may_not_read(store: Store) -> None:
    store.write_bytes(b"", "file")
    umask = os.umask(0)
    os.umask(umask)
    assert Path(store.path("file")).stat().st_mode & 0o777 == 0o666 & ~umask


NO_NAMES = [
    "", ".", "..", ".a", "_a", "a/b", "../a", "/a", "a\\b", "a b", "a\n", "\na", "a\0",
    "🩸", "é", "a*", "a:b", "~", "%41", "x" * 121,
    "<b>", "'", "=1", "a|b", "a;b", "{}", "[l]", "\x1b[31m", "\u202e",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_no_safe_folder_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="is no batch name: use"):
        check_name("batch", name)


@given(st.text())
def test_every_name_is_refused_or_stays_one_folder_below(name: str) -> None:
    try:
        check_name("model", name)
    except StoreError:
        return
    assert os.path.normpath(f"/root/{name}") == f"/root/{name}"
    assert json.dumps(name) == f'"{name}"'
