import pytest

from tasks.images.names import name_of_slide, names_of_slides


@pytest.mark.parametrize(
    ("uri", "root", "by", "expected"),
    [
        ("file:///night/1.jpg", "/night", "file", "1"),
        ("file:///night/1.jpg", "/night", "folder", "1"),
        ("file:///night/a/b/1.jpg", "/night/", "folder", "a/b"),
        ("s3://bucket/night/a/1.svs", "bucket/night", "file", "a/1"),
        ("zip://a/1.jpg::file:///x.zip", "/x.zip", "file", "a/1"),
        ("zip://a/1.jpg::file:///x.zip", "/x.zip", "folder", "a"),
        ("file:///night/a::b/1::2.jpg", "/night", "file", "a::b/1::2"),
        ("file:///night/a::b/1::2.jpg", "/night", "folder", "a::b"),
    ],
)
def test_names_of_slides(uri: str, root: str, by: str, expected: str) -> None:
    assert name_of_slide(uri, root, by) == expected


def test_two_files_are_two_slides_whatever_their_extension() -> None:
    uris = [f"file:///night/{name}" for name in ("a.jpg", "a.tif", "b.tif")]
    assert names_of_slides(uris, "/night", "file") == ["a.jpg", "a.tif", "b"]
    archive = [f"zip://{name}::file:///x.zip" for name in ("s/a.jpg", "s/a.tif")]
    assert names_of_slides(archive, "/x.zip", "file") == ["s/a.jpg", "s/a.tif"]
    assert names_of_slides(archive, "/x.zip", "folder") == ["s", "s"]
