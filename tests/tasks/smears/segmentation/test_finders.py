import pytest

from tasks.images.access.files import SourceError
from tasks.smears.segmentation.finders import load_finder, try_finder


@pytest.mark.parametrize(
    "name", ["nobody", "tests.support.finders:nobody", "tests.nobody:upper_half"]
)
def test_an_unknown_finder_is_refused_before_anything_is_done(name: str) -> None:
    with pytest.raises(SourceError, match="module:function"):
        load_finder(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "tests.support.finders:always_broken",
            r"fails on an empty field \(RuntimeError: no weights\)",
        ),
        ("math:dist", r"fails on an empty field"),
        ("builtins:max", r"fails on an empty field"),
        ("tests.support.finders:nonsense", r"returns list, and not Cells"),
    ],
)
def test_a_wrong_finder_is_known_before_any_photograph_is_read(name: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        try_finder(name)
    try_finder("tests.support.finders:upper_half")
    try_finder("outlines")
