import pytest

from tasks.smears.segmentation.sorts import names_of_slides


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
    assert names_of_slides([uri], root, by, [False]) == [expected]


def test_two_files_are_two_slides_whatever_their_extension() -> None:
    uris = [f"file:///night/{name}" for name in ("a.jpg", "a.tif", "b.tif")]
    assert names_of_slides(uris, "/night", "file", [False] * 3) == ["a.jpg", "a.tif", "b"]


def test_photographs_in_a_folder_are_one_slide_and_a_scan_is_its_own() -> None:
    uris = [f"file:///n/night/{name}" for name in ("a.jpg", "b.jpg", "s/c.jpg", "s/d.svs")]
    names = names_of_slides(uris, "/n/night", "folder", [False, False, False, True])
    assert names == ["a", "b", "s", "s/d"]
