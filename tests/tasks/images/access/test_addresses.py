"""Addresses: their parts, and the part that nobody is shown."""

from pathlib import Path, PurePosixPath

import pytest

from tasks.images.access.addresses import extension, holds_secret, parts_of, redact
from tasks.images.listing import list_images


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pass@host/cells", "https://***@host/cells"),
        ("https://me:p@ss@host:8080/cells", "https://***@host:8080/cells"),
        ("https://me:pa/ss+word@host/cells", "https://***@host/cells"),
        ("https://token@host/cells", "https://***@host/cells"),
        ("zip://a/b.png::https://me:pass@host/x.zip", "zip://a/b.png::https://***@host/x.zip"),
        ("zip://cell@2.png::s3://k:s@b/x.zip", "zip://cell@2.png::s3://***@b/x.zip"),
        ("from 'sftp://me:pass@host/in', 2 images", "from 'sftp://***@host/in', 2 images"),
        ("https://h/x.png?id=7&token=abc&size=9", "https://h/x.png?id=7&token=***&size=9"),
        ("https://h/x?X-Amz-Signature=ab%2Fc&X=1", "https://h/x?X-Amz-Signature=***&X=1"),
        ("https://h/x?sv=1&sig=a%3D (404)", "https://h/x?sv=1&sig=*** (404)"),
        ("https://h/x?API_KEY=abc", "https://h/x?API_KEY=***"),
        ("tls://10.0.0.1:8786 and a@b", "tls://10.0.0.1:8786 and a@b"),
    ],
)
def test_no_secret_of_a_url_is_left(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "plain",
    [
        "file:///photos/cell@2x.png",
        "https://host:8080/photos/cell@2x.png",
        "zip://cell@2x.png::/photos/a.zip",
        "s3://bucket/2026-03-01/cell.png",
        "write to lab@example.org about /photos?",
    ],
)
def test_what_is_no_secret_stays(plain: str) -> None:
    assert redact(plain) == plain


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("s3://key:secret@bucket/cells", True),
        ("s3://key:se/cret@bucket/cells", True),
        ("https://host/cells.zip?token=abc", True),
        ("zip://a.png::https://me:pass@host/x.zip", True),
        ("zip://x://me:pass@host/a.png::/x.zip", False),
        ("file:///photos/a:b@2x?key=1.png", False),
        ("/photos/a:b@2x.png", False),
        ("s3://bucket/cells", False),
    ],
)
def test_an_address_with_a_password_is_known(address: str, holds: bool) -> None:
    assert holds_secret(address) == holds


def test_a_row_of_a_manifest_with_a_password_fails_and_the_password_is_not_kept(
    tmp_path: Path,
) -> None:
    manifest = tmp_path / "night.csv"
    manifest.write_text("uri\ns3://key:hush@bucket/a.png\nb.png\n")
    table = list_images(str(manifest))
    assert "hush" not in str(table.to_pylist())
    failures = {row["uri"].rpartition("/")[2]: row["failure"] for row in table.to_pylist()}
    assert failures["a.png"].startswith("unreadable: refused: no address may hold a password")
    assert failures["b.png"] is None


@pytest.mark.parametrize(
    "path",
    [
        *("cell.png", "/a/b/cell.PNG", "a//./b/cell.png", "./cell.png", "a.zarr/", "../cell.png"),
        *("cell", "cell.", ".png", "..png", ".a.png", "a.b/cell", "two.dots.jpeg", "..", "", "/"),
    ],
)
def test_paths_are_divided_as_by_pathlib(path: str) -> None:
    known = PurePosixPath(path)
    assert parts_of(path) == [part for part in known.parts if part != "/"]
    assert extension(path) == known.suffix.lower()
