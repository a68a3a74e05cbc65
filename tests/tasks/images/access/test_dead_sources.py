"""Sources that do not answer: a dead mount and a silent server."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tasks.images import decoding, manifest, regions
from tasks.images.access import files, folders, patience
from tasks.images.access.patience import TimedOutError, wait_at_most
from tasks.images.listing import list_images, refuse_missing
from tasks.images.opened_slides import is_slide, open_slide
from tasks.network.extraction import load_images

LIMIT = 0.1


@pytest.fixture
def over() -> Iterator[threading.Event]:
    wait_at_most(LIMIT)
    ended = threading.Event()
    yield ended
    ended.set()
    wait_at_most(patience.READ_SECONDS)
    patience._SILENT.clear()


@pytest.fixture
def server(over: threading.Event) -> str:
    """A filesystem that is silent whatever it is asked."""

    class Dead(MemoryFileSystem):
        protocol = "dead"
        store: dict[str, Any] = {}  # noqa: RUF012
        cachable = False

        def _wait(self, *_: object, **__: object) -> Any:
            over.wait()
            raise FileNotFoundError("too late")

        info = ls = cat_file = _open = isfile = isdir = exists = ukey = _wait

    fsspec.register_implementation("dead", Dead, clobber=True)
    return "dead://ward"


READS: dict[str, Callable[[str], object]] = {
    "bytes": files.read_bytes,
    "digest": files.digest_of_file,
    "stamp": files.stamp,
    "list": lambda uri: folders.list_files(uri, lambda listed: list(listed.files)),
    "images": list_images,
    "missing": lambda uri: list_images(f"{uri}.parquet"),
    "archive": lambda uri: list_images(f"{uri}.zip"),
    "member": lambda uri: files.read_bytes(f"zip://1.png::{uri}.zip"),
    "slide": lambda uri: open_slide(f"{uri}/1.svs"),
    "photograph or slide": lambda uri: is_slide(f"{uri}/1.tif") or pytest.fail("it was read"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_nothing_waits_for_ever_for_a_silent_server(
    server: str, read: Callable[[str], object]
) -> None:
    with pytest.raises(TimedOutError, match=f"has not answered for {LIMIT} s: see whether dead://"):
        read(server)


def test_a_dead_mount_is_said_before_anything_is_started(
    over: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.LocalFileSystem, "exists", lambda *_: over.wait())
    with pytest.raises(TimedOutError, match="/mnt/ward has not answered"):
        refuse_missing("/mnt/ward")


def test_images_of_a_dead_mount_fail_and_the_others_are_read(
    cells: Path, over: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = list_images(str(cells))["uri"].to_pylist()
    dead = {uri.removeprefix("file://") for uri in uris[::4]}
    honest = files._read_local
    monkeypatch.setattr(
        files,
        "_read_local",
        lambda path, *most: over.wait() if path in dead else honest(path, *most),
    )
    refs = regions.image_refs(pa.Table.from_pylist([{"uri": uri} for uri in uris], manifest.SCHEMA))
    loaded = list(load_images(refs, 8, threads=2))
    reasons = [image.failure and image.failure.reason for image in loaded]
    assert reasons == ["timed_out" if row % 4 == 0 else None for row in range(len(uris))]
    failures = [str(image.failure) for image in loaded if image.failure]
    assert all(uri in failure for uri, failure in zip(uris[::4], failures, strict=True))


def test_a_batch_on_a_dead_mount_ends_long_before_each_image_has_had_its_time(server: str) -> None:
    rows = [{"uri": f"{server}/{number}.png"} for number in range(2000)]
    refs = regions.image_refs(pa.Table.from_pylist(rows, manifest.SCHEMA))
    loaded = list(load_images(refs, 8, threads=2))
    assert {image.failure.reason for image in loaded if image.failure} == {"timed_out"}
    assert len(loaded) == 2000  # within the test's own limit; 2000 times LIMIT / 2 is 100 s


def test_a_file_answers_for_its_mount_a_member_for_its_archive_and_an_object_for_its_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "_mounts", lambda: ("/", "/mnt/ward/", "/mnt/ward b/"))
    wanted = {
        "file:///mnt/ward/1.png": "/mnt/ward/",
        "/mnt/ward/a/b/1.png": "/mnt/ward/",
        "file:///mnt/wards/1.png": "/",
        "zip://1.png::file:///mnt/a.zip": "file:///mnt/a.zip",
        "s3://bucket/a/1.png": "s3://bucket",
    }
    assert {uri: files.place_of(uri) for uri in wanted} == wanted


def test_a_client_of_an_object_store_gives_up_a_request_before_the_read_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        fsspec.config.conf, "s3", {"anon": True, "config_kwargs": {"connect_timeout": 3}}
    )
    fs, _ = files.filesystem("s3://bucket/1.png")
    assert fs.config_kwargs == {
        "connect_timeout": 3, "read_timeout": 30, "retries": {"max_attempts": 2},
        "max_pool_connections": 32,
    }  # fmt: skip
    assert files.filesystem("s3://bucket/2.png")[0] is fs
    assert decoding.failure_of(TimedOutError("late")).reason == "timed_out"
