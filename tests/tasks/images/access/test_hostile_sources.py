"""Sources that a stranger has made: a name is only ever a name, and nothing is lost silently."""

import os
import socket
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from tasks.images.access import files
from tasks.images.access.addresses import split_link
from tasks.images.access.files import (
    ChangedError,
    SourceError,
    TooLargeError,
    digest_of_file,
    read_bytes,
    stamp,
)
from tasks.images.listing import list_images
from tasks.images.manifest import SCHEMA
from tasks.images.regions import find, image_refs
from tasks.network.extraction import load_image
from tests.support import archives, images, needs


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let every connection fail, and remember where it was to go."""
    asked: list[object] = []

    def connect(_: socket.socket, address: object) -> None:
        asked.append(address)
        raise ConnectionRefusedError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    return asked


LINKS = (
    "patient.png::local://{secret}::file:///x.png",
    "patient.png::file://{secret}::x.png",
    "x.png::reference://k::local://{secret}::file:///x.png",
    "a.png::http://127.0.0.1:8123/evil.zip::file:///x.png",
    "a.png::http://127.0.0.1:8123/evil.png",
    "a.png::zip://patient.png::file://{secret}#.png",
    "a.png::simplecache::s3://bucket/evil.png",
)


@pytest.mark.parametrize("link", LINKS)
def test_a_member_whose_name_holds_an_address_is_read_by_its_name(
    tmp_path: Path, no_network: list[object], link: str
) -> None:
    secret = tmp_path / "secret.zip"
    archives.write_zip(secret, {"patient.png": b"secret"})
    name = link.format(secret=secret)
    archives.write_zip(tmp_path / "inbox" / "night.zip", {name: b"open"})
    (uri,) = list_images(str(tmp_path / "inbox" / "night.zip"))["uri"].to_pylist()
    assert read_bytes(uri) == b"open"
    assert split_link(uri.partition("://")[2])[0] == name
    assert digest_of_file(uri)
    assert stamp(uri)
    assert not no_network


def test_an_object_whose_key_holds_an_address_is_read_by_its_key(s3_bucket: str) -> None:
    fs = fsspec.filesystem("s3")
    key = f"{s3_bucket}/hostile/x.png::memory://secret/y.png"
    fs.pipe_file(key, b"open")
    fsspec.filesystem("memory").pipe_file("/secret/y.png", b"secret")
    (uri,) = list_images(f"{s3_bucket}/hostile")["uri"].to_pylist()
    assert read_bytes(uri) == b"open"


def refused(row: dict[str, object], folder: Path, **options: Any) -> str:
    """What a row of a manifest fails with; empty where it does not fail."""
    pq.write_table(pa.Table.from_pylist([row]), folder / "night.parquet")
    table = list_images(str(folder / "night.parquet"), **options)
    (ref,) = image_refs(table)
    return str(load_image(ref, 8).failure or "")


@pytest.mark.parametrize("column", ["uri", "source_uri"])
@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/x.png", "https://host/x.png", "ftp://127.0.0.1/x.png",
        "memory://x.png", "gopher://x.png", "simplecache::file:///etc/passwd",
        "simplecache::http://127.0.0.1:1/x.png", "reference://x", "github://a:b@c/x.png",
        "zip://x.png::http://127.0.0.1:1/x.zip", "tar://x.png::memory://x.tar",
        "zip://x.png::simplecache::http://127.0.0.1:1/x.zip", "local:///etc/passwd",
    ],
)  # fmt: skip
def test_a_manifest_cannot_send_its_reader_elsewhere(
    tmp_path: Path, no_network: list[object], column: str, address: str
) -> None:
    box = {} if column == "uri" else dict.fromkeys(("x", "y", "width", "height"), 1)
    assert "refused: a manifest may not name" in refused({column: address} | box, tmp_path)
    assert not no_network


def test_a_manifest_of_our_own_may_name_any_filesystem(tmp_path: Path) -> None:
    assert "refused" not in refused({"uri": "memory://none.png"}, tmp_path, trusted=bool)


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A pipe that nobody writes to, behind a link that looks like an image."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "night").mkdir()
    (tmp_path / "night" / "1.png").symlink_to(tmp_path / "pipe")
    return tmp_path / "night" / "1.png"


@pytest.mark.parametrize("read", [read_bytes, digest_of_file, stamp])
def test_a_pipe_is_refused_and_nobody_waits_for_it(
    hanging: Path, read: Callable[[str], object]
) -> None:
    for address in (hanging.as_uri(), f"zip://a.png::{hanging.as_uri()}"):
        with pytest.raises(SourceError, match=r"refused: .* a pipe or a device"):
            read(address)


def test_a_pipe_and_a_device_are_rows_that_say_why(hanging: Path) -> None:
    (hanging.parent / "2.png").symlink_to("/dev/zero")
    for ref in image_refs(list_images(str(hanging.parent))):
        failure = images.refusal_of(ref)
        assert (failure.reason, "refused" in str(failure)) == ("unreadable", True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"outline": [1.0]}, "cannot reshape"),
        ({"source_id": "nothex"}, "non-hexadecimal"),
        ({"failure": "who knows"}, "who knows"),
    ],
)
def test_a_row_that_cannot_be_parsed_fails_alone(wrong: dict[str, object], says: str) -> None:
    box = {"source_uri": "file:///1.png", "x": 0, "y": 0, "width": 5, "height": 5}
    rows = [{"uri": "file:///0.png"}, {"uri": "odd"} | box | wrong, {"uri": "file:///2.png"}]
    first, odd, last = image_refs(pa.Table.from_pylist(rows, SCHEMA))
    assert (first.failure, last.failure) == (None, None)
    assert images.refusal_of(odd).reason == "damaged"
    assert says in str(images.refusal_of(odd))


@pytest.fixture
def closed_ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two wards, of which one cannot be listed, as after a mount has gone stale."""
    archives.write_folder(tmp_path / "wards", dict.fromkeys(("a/1.png", "b/1.png"), b"one"))
    honest = LocalFileSystem.ls

    def ls(self: LocalFileSystem, path: str, *args: Any, **kwargs: Any) -> object:
        if path.rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return honest(self, path, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    return tmp_path / "wards"


@pytest.mark.parametrize("source", ["", "/*/*.png", "/**/*.png"])
def test_a_folder_that_cannot_be_listed_is_named_and_nothing_is_taken(
    closed_ward: Path, source: str
) -> None:
    with pytest.raises(SourceError, match=r"wards/b cannot be listed \(Permission denied\)"):
        list_images(f"{closed_ward}{source}")


def test_a_linked_folder_is_said_to_be_left_out(tmp_path: Path) -> None:
    archives.write_folder(tmp_path, {"elsewhere/2.png": b"two", "night/1.png": b"one"})
    (tmp_path / "night" / "ward").symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    assert list_images(str(tmp_path / "night"), on_skip=said.append).num_rows == 1
    assert len(said) == 1
    assert f"{tmp_path}/night/ward is a link to a folder" in said[0]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_name_that_is_not_utf_8_is_one_row_that_failed(tmp_path: Path, kind: str) -> None:
    night = tmp_path / "night"
    night.mkdir()
    names = [b"1.png", b"caf\xe9.png", b"caf\xe8.png"]
    try:
        for name in names:
            Path(os.fsdecode(os.fsencode(night) + b"/" + name)).write_bytes(name)
    except OSError:
        needs.lacking("names", "this filesystem has only UTF-8 names")
    source = str(night)
    if kind == "tar":
        source = f"{night}.tar"
        with tarfile.open(source, "w") as packed:
            packed.add(night, "night")
    table = list_images(source)
    failures = {ref.uri: load_image(ref, 8).failure for ref in image_refs(table)}
    odd = {uri: str(failure) for uri, failure in failures.items() if "\\udc" in uri}
    assert (len(failures), len(odd)) == (3, 2)
    assert all("is not UTF-8: rename it" in failure for failure in odd.values())


def test_a_file_that_was_overwritten_since_it_was_listed_is_not_scored(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    (ref,) = image_refs(list_images(str(tmp_path)))
    assert find(ref).content == b"one"
    (tmp_path / "1.png").write_bytes(b"another")
    with pytest.raises(ChangedError, match="changed since it was frozen: it had 3 bytes and has 7"):
        find(ref)
    assert images.refusal_of(ref).reason == "unreadable"


@pytest.mark.parametrize("kind", ["file", "zip", "tar"])
def test_a_file_that_says_that_it_is_too_large_is_not_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 2**23)
    content = bytes(2**24)
    uri = f"{kind}://x.png::{tmp_path}/x.{kind}"
    if kind == "file":
        uri = str(tmp_path / "x.png")
        Path(uri).write_bytes(content)
    else:
        write = archives.write_zip if kind == "zip" else archives.write_tar("w")
        write(tmp_path / f"x.{kind}", {"x.png": content})
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="it has more than 8,388,608 bytes"):
        read_bytes(uri)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20


def test_no_object_is_read_beyond_the_limit(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 4)
    s3, root = fsspec.filesystem("s3"), f"{s3_bucket}/{tmp_path.name}"
    for name, content in (("empty", b""), ("four", b"1234"), ("five", b"12345")):
        s3.pipe_file(f"{root}/{name}", content)
    assert read_bytes(f"{root}/empty") == b""
    assert read_bytes(f"{root}/four") == b"1234"
    with pytest.raises(TooLargeError):
        read_bytes(f"{root}/five")
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{root}/none")


def test_a_name_in_an_archive_is_not_read_whatever_its_length(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.png")
    header.type, header.size = tarfile.XHDTYPE, 2**31
    (tmp_path / "night.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(SourceError, match=r"night\.tar cannot be read .* a name of 2,147,483,648"):
        list_images(str(tmp_path / "night.tar"))


@pytest.mark.parametrize(
    ("name", "says"),
    [("night.csv", "has 4,294,967,296 bytes, more"), ("night.parquet", "footer has 3,999,999,999")],
)
def test_a_manifest_that_would_fill_the_memory_is_refused(
    name: str, says: str, tmp_path: Path
) -> None:
    with (tmp_path / name).open("wb") as file:  # it takes no room on the disk
        file.seek(2**32 - 8)
        file.write((3_999_999_999).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(SourceError, match=says):
        list_images(str(tmp_path / name))
