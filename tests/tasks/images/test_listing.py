import io
import itertools
import os
import random
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import s3fs

from storage.store import Store
from tasks.images.access.files import SourceError, read_bytes
from tasks.images.listing import list_images, refuse_missing
from tasks.images.manifest import SCHEMA
from tasks.images.names import Name, parse_name
from tests.support.archives import KINDS, write_folder, write_zip

CLASSES = ("Parasitized", "Uninfected")
NONE = ("{}/none", "{}/none.zip", "{}/none.tar.gz", "{}/none.csv")
NIH = "C33P1thinF_IMG_20150619_114756a_cell_179.png"
AWKWARD = [
    "a b.png", " lead.png", "🩸.png", "é.png", "=1+1.png", "no#.png", "a::http:b.png",
    "what?.png", "100%20.png", "a::b.png", "a::file:b.png", "*.png", "[1].png", "~.png",
    "back\\slash.png", "quote'\".png", "file:.png", "-.png", "UPPER.PNG", "two.dots.jpeg",
]  # fmt: skip


def names_of(table: pa.Table) -> list[str]:
    uris = table["uri"].to_pylist()
    return [re.split(r"::\w+:///?", uri, maxsplit=1)[0].rsplit("/", 1)[-1] for uri in uris]


@pytest.fixture(params=KINDS)
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Put files into a source of each kind and return its path."""
    name, write = KINDS[request.param]

    def put(members: dict[str, bytes], folder: str = "") -> Path:
        write(tmp_path / folder / name, members)
        return tmp_path / folder / name

    return put


@pytest.fixture
def s3_folder(s3_bucket: str, tmp_path: Path) -> str:
    """The URL of an empty folder on S3."""
    return f"{s3_bucket}/{tmp_path.name}"


def upload(folder: str, root: Path) -> None:
    """Copy a folder to S3, name by name: no sign in a name has a meaning."""
    fs = fsspec.filesystem("s3")
    for path in root.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{folder}/{path.relative_to(root)}", path.read_bytes())


@pytest.fixture(params=["local", "s3"])
def publish(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return the URL of the test's folder, on this machine or as a copy on S3."""

    def publish() -> str:
        if request.param == "local":
            return str(tmp_path)
        s3_folder: str = request.getfixturevalue("s3_folder")
        upload(s3_folder, tmp_path)
        return s3_folder

    return publish


@pytest.fixture
def put_anywhere(
    tmp_path: Path, put: Callable[..., Path], publish: Callable[[], str]
) -> Callable[..., str]:
    """Put files into a source of each kind, on this machine or on S3, and return its URL."""

    def put_anywhere(members: dict[str, bytes], folder: str = "") -> str:
        place = put(members, folder).relative_to(tmp_path)
        return f"{publish()}/{place}"

    return put_anywhere


def contents(table: pa.Table) -> set[bytes]:
    return {read_bytes(uri) for uri in table["uri"].to_pylist()}


def test_every_listed_image_is_read_under_its_url_however_it_is_named(
    put_anywhere: Callable[..., str],
) -> None:
    members = {name: name.encode() for name in [*AWKWARD, *(f"sub/dir/{n}" for n in AWKWARD)]}
    table = list_images(put_anywhere(members))
    assert contents(table) == set(members.values())
    assert table["uri"].to_pylist() == sorted(table["uri"].to_pylist())
    assert table.schema == SCHEMA
    assert table["size"].to_pylist() == [len(read_bytes(u)) for u in table["uri"].to_pylist()]


def test_a_name_may_have_a_line_break(put: Callable[..., Path]) -> None:
    assert contents(list_images(str(put({"line\nbreak.png": b"one"})))) == {b"one"}


@pytest.mark.parametrize("folder", ["a b", "100%20", "a::b", "[1]", "no#?*", "🩸", ".hidden"])
def test_a_source_is_found_whatever_folder_it_lies_in(
    put_anywhere: Callable[..., str], folder: str
) -> None:
    assert contents(list_images(put_anywhere({"1.png": b"one"}, folder))) == {b"one"}


def test_a_store_among_the_images_has_none(tmp_path: Path) -> None:
    write_folder(tmp_path, {"1.png": b"one", "s/2.png": b"two", "s/x/b.zarr/0": b"0"})
    assert contents(list_images(str(tmp_path), trusted=Store(f"{tmp_path}/s").holds)) == {b"one"}


def test_what_is_no_picture_is_left_out_and_a_picture_that_is_not_read_fails_aloud(
    put_anywhere: Callable[..., str],
) -> None:
    pictures = {
        **dict.fromkeys([".hidden.png", ".cache/1.png", "sub/.thumbs/1.png"], "begins with a dot"),
        **dict.fromkeys(["a.jpg.part", "IMG_1.part"], "not completely copied"),
        "scan.gif": ".gif is not read: save it as JPEG",
    }
    others = [
        "notes.txt", "notes.pdf.part", "png", "._1.png", "__MACOSX/1.png", "__MACOSX/sub/._1.png",
        ".DS_Store", "2.VSI", "a/3.vsi",
    ]  # fmt: skip
    members = {"1.png": b"one"} | dict.fromkeys([*pictures, *others], b"other")
    told: list[str] = []
    listed = list_images(put_anywhere(members), on_skip=told.append)
    failed = {row["uri"]: row["failure"] for row in listed.to_pylist() if row["failure"]}
    assert contents(listed.filter(listed["failure"].is_null())) == {b"one"}
    assert len(failed) == len(pictures)
    for name, why in pictures.items():
        (said,) = (text for uri, text in failed.items() if f"/{name}" in uri)
        assert re.fullmatch(f"left_out: .*{re.escape(why)}.*", said)
    (said,) = told
    assert re.match(r"5 files of .* no image's: 2 \.vsi, 1 \.part, 1 \.txt, 1 no extension\Z", said)


def test_a_picture_by_another_name_fails_aloud(tmp_path: Path) -> None:
    for name in ("1.jfif", "2", "3.bak", "notes"):
        (tmp_path / name).write_bytes(b"notes" if name == "notes" else b"\xff\xd8\xff\xe0")
    one, *others = list_images(str(tmp_path))["failure"].to_pylist()
    why = "left_out: it begins like a picture: call it .jpg, .png or .tif if it is one"
    assert (one, others) == (None, [why] * 2)


def test_labels_are_the_folder_directly_above(put_anywhere: Callable[..., str]) -> None:
    some = ("Parasitized/1.png", "Uninfected/2.png", "parasitized/3.png")
    members = dict.fromkeys([*map("cells/".__add__, some), "Parasitized/more/4.png", "5.png"], b"")
    told: list[str] = []
    table = list_images(put_anywhere(members), classes=CLASSES, on_skip=told.append)
    labels = dict(zip(names_of(table), table["label"].to_pylist(), strict=True))
    assert labels == {
        "1.png": "Parasitized", "2.png": "Uninfected", "3.png": "Parasitized", "4.png": None,
        "5.png": None,
    }  # fmt: skip
    said = "folders called 'parasitized' are taken as class Parasitized: only capitals differ"
    assert told == [said]


@pytest.mark.parametrize("source", ["", "  ", ["cells", ""]])
def test_an_empty_source_is_not_the_working_folder(source: str | list[str]) -> None:
    with pytest.raises(SourceError, match="is an empty text: is a variable not set"):
        list_images(source)


def test_the_order_is_that_of_names_whatever_the_order_of_files(tmp_path: Path) -> None:
    names = [NIH.replace("33", str(p)).replace("179", str(c)) for p in (9, 10) for c in range(5)]
    found = []
    for seed in range(3):
        random.Random(seed).shuffle(names)
        write_zip(tmp_path / str(seed) / "night.zip", dict.fromkeys([*names, "x.png"], b""))
        found.append(names_of(list_images(str(tmp_path / str(seed) / "night.zip"))))
    assert found[0] == found[1] == found[2]
    assert [name[:3] for name in found[0]] == ["C10"] * 5 + ["C9P"] * 5 + ["x.p"]


def test_a_limit_spreads_evenly(tmp_path: Path) -> None:
    write_folder(tmp_path / "night", {f"{i:02d}.png": b"" for i in range(100)})
    source = str(tmp_path / "night")
    assert names_of(list_images(source, limit=4)) == ["00.png", "25.png", "50.png", "75.png"]
    assert list_images(source, limit=1).num_rows == 1
    assert len(set(names_of(list_images(source, limit=99)))) == 99
    for generous in (100, 101, None):
        assert list_images(source, limit=generous).num_rows == 100


def test_a_pattern_takes_what_it_matches(tmp_path: Path, publish: Callable[[], str]) -> None:
    write_folder(tmp_path, {f"n/{p}/{i}.png": b"" for p in "ab" for i in range(3)})
    root = publish()
    for pattern, rows in (("a/*.png", 3), ("*/[01].png", 4), ("**/2.png", 2), ("*/9.png", 0)):
        assert list_images(f"{root}/n/{pattern}").num_rows == rows


def test_links_to_images_are_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"all/1.png": b"one"})
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "2.png").symlink_to(tmp_path / "all" / "1.png")
    assert contents(list_images(str(tmp_path / "chosen"))) == {b"one"}


def test_another_filesystem_is_a_source(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    fs.pipe_file(f"{root}/sub/1.png", b"one")
    fs.pipe_file(f"{root}/night.csv", b"uri\nsub/1.png\n")
    try:
        assert contents(list_images(f"memory:/{root}")) == {b"one"}
        assert contents(list_images(f"memory:/{root}/night.csv")) == {b"one"}
    finally:
        fs.rm(root, recursive=True)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_on_s3_names_images_beside_it_and_elsewhere(
    s3_folder: str, tmp_path: Path, kind: str
) -> None:
    write_folder(tmp_path, {"there/1.png": b"one", "here/2::a.png": b"two", "3.png": b"three"})
    upload(s3_folder, tmp_path)
    uris = ["2::a.png", f"{s3_folder}/there/1.png", f"{tmp_path}/3.png"]
    write_manifest(tmp_path / "here", kind, {"uri": uris})
    upload(s3_folder, tmp_path)
    table = list_images(f"{s3_folder}/here/night.{kind}")
    assert contents(table) == {b"one", b"two", b"three"}


def test_images_that_another_process_adds_on_s3_are_listed(s3_folder: str) -> None:
    theirs = fsspec.filesystem("s3", skip_instance_cache=True)
    for night in (1, 2):
        theirs.pipe_file(f"{s3_folder}/{night}.png", b"")
        assert list_images(s3_folder).num_rows == night
        assert list_images(f"{s3_folder}/*.png").num_rows == night


def test_an_archive_on_s3_is_not_fetched_whole_for_one_image(
    s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(tmp_path / "night.zip", {f"{i}.png": bytes(1_000_000) for i in range(10)})
    upload(s3_folder, tmp_path)
    fetched = []
    fetch = s3fs.S3File._fetch_range

    def spy(file: s3fs.S3File, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return fetch(file, start, end)

    monkeypatch.setattr(s3fs.S3File, "_fetch_range", spy)
    uris = list_images(f"{s3_folder}/night.zip")["uri"].to_pylist()
    assert read_bytes(uris[0]) == bytes(1_000_000)
    assert sum(fetched) <= 4_000_000


@pytest.mark.parametrize(
    "source", ["night", "night.csv", "night.zip", "NIGHT.TAR.GZ", "zip://sub::night.zip"]
)
def test_a_relative_source_holds_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    members = {"sub/1.png": b"one"}
    for kind in ("folder", "zip", "TAR.GZ"):
        name, write = KINDS[kind]
        write(tmp_path / name, members)
    (tmp_path / "night.csv").write_text("uri\nnight/sub/1.png\n")
    monkeypatch.chdir(tmp_path)
    table = list_images(source)
    monkeypatch.chdir("/")
    assert contents(table) == {b"one"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_that_was_replaced_is_read_anew(
    tmp_path: Path, publish: Callable[[], str], kind: str
) -> None:
    name, write = KINDS[kind]
    for night, content in enumerate((b"first", b"the second night's")):
        write(tmp_path / name, {"0.png": b"x" * night * 1000, "1.png": content})
        os.utime(tmp_path / name, (night, night))
        assert content in contents(list_images(f"{publish()}/{name}"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_many_threads_read_one_archive(tmp_path: Path, kind: str) -> None:
    rng = random.Random(0)
    members = {f"{i}.png": rng.randbytes(rng.randrange(1, 20_000)) for i in range(60)}
    name, write = KINDS[kind]
    write(tmp_path / name, members)
    uris = list_images(str(tmp_path / name))["uri"].to_pylist() * 8
    rng.shuffle(uris)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_bytes, uris))
    assert read == [members[uri.partition("://")[2].partition("::")[0]] for uri in uris]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
@pytest.mark.parametrize("damage", [b"", b"not an archive", None])
def test_a_damaged_archive_is_a_source_error_that_names_it(
    tmp_path: Path, kind: str, damage: bytes | None
) -> None:
    name, write = KINDS[kind]
    write(tmp_path / name, {f"{i}.png": random.Random(i).randbytes(500) for i in range(40)})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    for folder in ("", "zip://cells::" if kind == "zip" else "tar://cells::"):
        with pytest.raises(SourceError, match=name):
            list_images(f"{folder}{tmp_path / name}")


@pytest.mark.parametrize("source", [*NONE, "zip://cells::{}/none.zip", "tar://cells::{}/none.tar"])
def test_a_source_that_does_not_exist_is_named(publish: Callable[[], str], source: str) -> None:
    with pytest.raises(SourceError, match=f"{source.format('.*')} does not exist"):
        list_images(source.format(publish()))


def test_one_image_is_a_source(tmp_path: Path) -> None:
    write_folder(tmp_path, {"Parasitized/1.png": b"1", "Parasitized/2.png": b"2"})
    for source in (tmp_path / "Parasitized" / "1.png", f"file://{tmp_path}/Parasitized/1.png"):
        (row,) = list_images(str(source), classes=["Parasitized"]).to_pylist()
        assert row["uri"] == f"file://{tmp_path}/Parasitized/1.png"
        assert (row["label"], row["size"]) == ("Parasitized", 1)


def test_one_slide_is_a_source_where_slides_are_wanted(tmp_path: Path) -> None:
    write_folder(tmp_path, {"1.svs": b"1", "notes.txt": b""})
    found = list_images(str(tmp_path / "1.svs"), extensions=frozenset({".svs"}))
    assert found["uri"].to_pylist() == [f"file://{tmp_path}/1.svs"]
    for name in ("1.svs", "notes.txt"):
        with pytest.raises(SourceError, match=rf"{name} is no image .*no archive .*no manifest"):
            list_images(str(tmp_path / name))


def test_several_sources_are_one_list_in_the_order_of_one(tmp_path: Path) -> None:
    write_folder(tmp_path, {"b/1.png": b"1", "a/2.png": b"2", "a/3.png": b"3"})
    write_zip(tmp_path / "c.zip", {"4.png": b"4"})
    b, a, archive = (str(tmp_path / name) for name in ("b", "a", "c.zip"))
    found = list_images([b, f"{a}/3.png", archive])
    assert found.equals(list_images([archive, b, f"{a}/3.png"]))
    assert found["uri"].to_pylist() == sorted(
        [f"file://{b}/1.png", f"file://{a}/3.png", f"zip://4.png::file://{archive}"]
    )
    assert list_images([a]).equals(list_images(a))
    assert list_images([a, b], limit=2).num_rows == 2


def test_an_image_that_two_sources_have_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/1.png": b"1"})
    with pytest.raises(SourceError, match=r"1\.png 2 times"):
        list_images([str(tmp_path), str(tmp_path / "a")])
    with pytest.raises(SourceError, match="no images are named"):
        list_images([])


def test_a_source_here_that_is_missing_is_seen_without_listing(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/1.png": b"1"})
    write_zip(tmp_path / "c.zip", {"4.png": b"4"})
    archive = tmp_path / "c.zip"
    refuse_missing([str(tmp_path / "a"), str(archive), f"zip://4::{archive}", "s3://bucket/none"])
    refuse_missing(f"{tmp_path}/*.png")
    for none in (f"{tmp_path}/b", f"zip://4::{tmp_path}/none.zip", f"file://{tmp_path}/none.csv"):
        with pytest.raises(SourceError, match="does not exist"):
            refuse_missing([str(tmp_path), none])


@pytest.mark.parametrize("name", ["night.csv", "night.parquet", "night.zip"])
def test_a_folder_that_is_named_like_a_file_is_a_source_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(SourceError, match=name):
        list_images(str(tmp_path / name))


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    assert list_images(str(tmp_path)).equals(SCHEMA.empty_table())


# Folders in archives

PACKED = {
    "cells/Parasitized/1.png": b"one",
    "cells/Uninfected/2.png": b"two",
    "cells/3.png": b"three",
    "cells/notes.txt": b"notes",
    "cell/4.png": b"four",
    "cells2/5.png": b"five",
    "more/cells/6.png": b"six",
    "7.png": b"seven",
}
INSIDE = pytest.mark.parametrize("kind", ["zip", "tar", "tar of .", "tar.gz"])


def pack(tmp_path: Path, kind: str) -> Path:
    name, write = KINDS[kind]
    write(tmp_path / name, PACKED)
    return tmp_path / name


@INSIDE
@pytest.mark.parametrize("protocol", ["", "file://"])
@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("cells", {b"one", b"two", b"three"}),
        ("cells/", {b"one", b"two", b"three"}),
        ("cells/Uninfected", {b"two"}),
        ("cells/Para", set()),
        ("cells2/5", set()),
        ("CELLS", set()),
        ("cell", {b"four"}),
        ("more", {b"six"}),
        ("", set(PACKED.values()) - {b"notes"}),
    ],
)
def test_a_folder_in_an_archive_is_a_source(
    tmp_path: Path, kind: str, protocol: str, folder: str, found: set[bytes]
) -> None:
    scheme = kind[:3]
    archive = f"{protocol}{pack(tmp_path, kind)}"
    table = list_images(f"{scheme}://{folder}::{archive}", classes=CLASSES)
    assert contents(table) == found
    # They have the URLs and labels that they have in the whole archive.
    whole = list_images(archive, classes=CLASSES).to_pylist()
    assert table.to_pylist() == [row for row in whole if row["uri"] in table["uri"].to_pylist()]
    if folder == "cells":
        assert set(table["label"].to_pylist()) == {None, *CLASSES}


@pytest.mark.parametrize("folder", ["a b", "100%20", "[1]", "no#?*", "🩸"])
def test_a_folder_in_an_archive_is_found_however_it_is_named(
    tmp_path: Path, publish: Callable[[], str], folder: str
) -> None:
    write_zip(tmp_path / "night.zip", {f"{folder}/1.png": b"one", "2.png": b"two"})
    assert contents(list_images(f"zip://{folder}::{publish()}/night.zip")) == {b"one"}


# Manifests


def write_manifest(tmp_path: Path, kind: str, columns: dict[str, list[object]]) -> str:
    path = tmp_path / f"night.{kind}"
    table = pa.table(columns)
    if kind == "csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return str(path)


BOTH = pytest.mark.parametrize("kind", ["csv", "parquet"])


@BOTH
def test_a_manifest_brings_its_own_columns(tmp_path: Path, kind: str) -> None:
    source = write_manifest(
        tmp_path,
        kind,
        {
            "uri": ["s3://bucket/2.png", str(tmp_path / "1 %20.png"), "sub/3\n=.png"],
            "label": ["Parasitized", None, "Leishmania"],
            "patient_id": ["007", "007", "7"],
            "slide_id": ["0042", "0043", None],
            "acquired_at": [datetime(2026, 1, 3, 8, 30)] * 3,
            "remark": ["left out"] * 3,
        },
    )
    table = list_images(source)
    assert table.schema == SCHEMA
    rows = {row["uri"]: row for row in table.to_pylist()}
    assert rows.keys() == {
        "s3://bucket/2.png",
        f"file://{tmp_path}/1 %20.png",
        f"file://{tmp_path}/sub/3\n=.png",
    }
    second = rows["s3://bucket/2.png"]
    assert (second["patient_id"], second["slide_id"]) == ("007", "0042")
    assert second["acquired_at"] == datetime(2026, 1, 3, 8, 30)
    # What is no class of the model is told apart later, where the model is known.
    assert table["label"].to_pylist() == ["Parasitized", None, "Leishmania"]


@BOTH
def test_a_manifest_needs_only_urls(tmp_path: Path, kind: str) -> None:
    names = [*AWKWARD, "line\nbreak.png"]
    write_folder(tmp_path, {name: name.encode() for name in names})
    table = list_images(write_manifest(tmp_path, kind, {"uri": names}))
    assert contents(table) == {name.encode() for name in names}
    assert table["patient_id"].null_count == len(names)


@BOTH
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"url": ["1.png"]}, r"night\.\w+ has no column 'uri' and no 'source_uri'; it has: url"),
        ({"uri": ["1.png", None], "label": ["a", "b"]}, r"night\.\w+, row 2: it has no uri"),
        ({"uri": ["1.png", "1.png"]}, r"names file://.*/1\.png 2 times"),
        ({"uri": ["1.png"], "size": ["large"]}, r"night\.\w+, column 'size': "),
        ({"uri": ["1.png"], "acquired_at": ["yesterday"]}, r"column 'acquired_at': "),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(
    tmp_path: Path, kind: str, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        list_images(write_manifest(tmp_path, kind, columns))


@BOTH
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1",
        b"PAR1" + b"\xff" * 99 + b"PAR1",
        b"PAR1" + b"\xff" * 20 + struct.pack("<I", 20) + b"PAR1",
        b"\xff\xfe",
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / f"night.{kind}").write_bytes(content)
    with pytest.raises(SourceError, match=f"night.{kind}"):
        list_images(str(tmp_path / f"night.{kind}"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "night.csv").write_text("uri,label,label\n1.png,a,b\n")
    with pytest.raises(SourceError, match="two columns of one name: label"):
        list_images(str(tmp_path / "night.csv"))
    (tmp_path / "night.csv").write_text("uri, Patient ID\n1.png,NA\n")
    with pytest.raises(SourceError, match="column ' Patient ID': call it 'patient_id'"):
        list_images(str(tmp_path / "night.csv"))


def test_a_manifest_out_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    for encoding, separator in itertools.product(("utf-8-sig", "utf-16"), ",;\t"):
        text = "uri,patient_id\r\n1.png,007\r\n2.png,NA\r\n".replace(",", separator)
        (tmp_path / "night.csv").write_bytes(text.encode(encoding))
        assert list_images(str(tmp_path / "night.csv"))["patient_id"].to_pylist() == ["007", "NA"]


def test_a_long_manifest_may_have_line_breaks_anywhere(tmp_path: Path) -> None:
    names = [f"{row:06d}\n" * 10 + ".png" for row in range(30_000)]  # more than one block of bytes
    assert list_images(write_manifest(tmp_path, "csv", {"uri": names})).num_rows == len(names)


def test_dictionaries_and_whole_numbers_become_text(tmp_path: Path) -> None:
    columns = {"uri": ["1.png"], "label": pa.array(["a"]).dictionary_encode(), "patient_id": [7]}
    row = list_images(write_manifest(tmp_path, "parquet", columns)).to_pylist()[0]
    assert (row["label"], row["patient_id"]) == ("a", "7")


# Names


def test_names_tell_patient_slide_and_time(tmp_path: Path) -> None:
    names = {
        "C1_thinF": "C1", "C2NThinF": "C2N", "C241NThinF": "C241N", "C37BP2_thinF": "C37BP2",
        "C167P128ReThinF": "C167P128Re", "C33P1thinF": "C33P1", "C99P60ThinF": "C99P60",
        "C12THIN": "C12",
    }  # fmt: skip
    cells = {f"{prefix}_IMG_20150622_105554a_cell_9.png": names[prefix] for prefix in names}
    write_zip(tmp_path / "night.zip", dict.fromkeys(cells, b""))
    table = list_images(str(tmp_path / "night.zip"))
    for name, row in zip(names_of(table), table.to_pylist(), strict=True):
        assert row["patient_id"] == cells[name]
        assert row["slide_id"] == f"{cells[name]}_IMG_20150622_105554a"
        assert row["acquired_at"] == datetime(2015, 6, 22, 10, 55, 54)


def test_a_name_that_tells_nothing_leaves_patient_slide_and_time_open() -> None:
    impossible = parse_name("C1thinF_IMG_20159922_105554_cell_9.png")
    assert (impossible.patient_id, impossible.acquired_at) == ("C1", None)
    for name in ("", "1.png", "thinF_IMG_20150622_105554_cell_9.png", "C1thin.png"):
        assert parse_name(name) == Name()


def test_a_locked_zip_is_listed_and_each_image_says_why_it_cannot_be_read(tmp_path: Path) -> None:
    write_zip(tmp_path / "night.zip", {"1.png": b"one"})
    content = bytearray((tmp_path / "night.zip").read_bytes())
    # The zip module cannot encrypt, but it believes the flag (bit 0) in either header.
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "night.zip").write_bytes(bytes(content))
    (uri,) = list_images(str(tmp_path / "night.zip"))["uri"].to_pylist()
    with pytest.raises(RuntimeError, match="encrypted"):
        read_bytes(uri)


def test_members_that_point_out_of_an_archive_are_listed_and_refused(tmp_path: Path) -> None:
    content = b"no image, but nobody gets this far"
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        for name in ("fine.png", "../up.png", "/absolute.png", "a/../../up.png"):
            packed.writestr(name, content)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "evil.tar", "w") as packed_tar:
        for name in ("fine.png", "../up.png", "/absolute.png"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed_tar.addfile(info, io.BytesIO(content))
        for name, kind, target in (
            ("soft.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "fine.png"),
            ("device.png", tarfile.CHRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            packed_tar.addfile(info)
    for archive, members in (("evil.zip", 5), ("evil.tar", 6)):
        uris = list_images(str(tmp_path / archive))["uri"].to_pylist()
        assert len(uris) == members
        for uri in uris:
            if "fine.png" in uri:
                assert read_bytes(uri) == content
            else:
                with pytest.raises(SourceError, match="refused"):
                    read_bytes(uri)


@pytest.mark.parametrize("kind", ["csv", "folder"])
def test_patients_are_named_after_their_laboratory(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path / "lima", {NIH: b"one", "7.png": b"two"})
    write_folder(tmp_path / "elsewhere", {"7.png": b"three"})
    source = f"lima={tmp_path}/lima"
    if kind == "csv":
        source = f"{tmp_path}/night.csv"
        rows = [f"lima/{NIH},lima,C33P1,s", "lima/7.png,lima,,7", "lima/7.png?,,8,8"]
        Path(source).write_text("\n".join(["uri,laboratory,patient_id,slide_id", *rows]) + "\n")
    table = list_images([source, f"{tmp_path}/elsewhere"] if kind == "folder" else source)
    patients = set(table["patient_id"].to_pylist())
    known = {"lima::C33P1", "lima::7", "8"} if kind == "csv" else {"lima::C33P1", None}
    assert patients == known
