"""What files are: cells, photographs of fields, or slides."""

import tracemalloc
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tasks.images.decoding import LARGEST_CELL, LARGEST_TRAINING_CELL
from tasks.images.regions import MOST_CELL_BYTES
from tasks.smears.segmentation.sorts import (
    IN_A_ROW,
    MOST_TRIED,
    TRIED,
    Glance,
    SortedFile,
    glance,
    glances,
    settle,
    to_try,
)
from tasks.smears.segmentation.whole_cells import SEVERAL

CAMERA = (640, 480)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((LARGEST_TRAINING_CELL, 90), "cells"),
        ((LARGEST_TRAINING_CELL + 1, 90), (LARGEST_TRAINING_CELL + 1, 90)),
        ((90, LARGEST_CELL), (90, LARGEST_CELL)),
        ((LARGEST_CELL + 1, 90), "fields"),
        ((20_000, 20_000), "fields"),
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_the_header_tells_by_the_longer_side(
    size: tuple[int, int], expected: Glance, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{kind}"
    Image.new("1" if max(size) > LARGEST_CELL + 1 and kind != "jpg" else "L", size).save(path)
    if max(size) > LARGEST_CELL + 1 and kind == "tif":
        expected = "slides"  # which is read by region, for it is too large for one picture
    assert glance(f"file://{path}") == expected


def test_a_slide_is_known_by_its_name_and_what_is_bad_by_nothing(tmp_path: Path) -> None:
    assert glance(f"file://{tmp_path}/a.svs") == "slides"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "empty.jpg").touch()
    assert glance(f"file://{tmp_path}/bad.png") is None
    assert glance(f"file://{tmp_path}/empty.jpg") is None
    assert glance(f"file://{tmp_path}/gone.jpg") is None


def test_a_file_that_claims_to_be_huge_is_not_read_to_its_end(tmp_path: Path) -> None:
    sparse, packed = tmp_path / "sparse.png", tmp_path / "packed.zip"
    with sparse.open("wb") as file:
        file.truncate(2**31)
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros.png", "w", force_zip64=True) as member,
    ):
        for _ in range(160):
            member.write(bytes(2**20))
    tracemalloc.start()
    try:
        assert glance(f"file://{sparse}") is None
        assert glance(f"zip://zeros.png::file://{packed}") is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_CELL_BYTES / 4


def looked(seen: dict[str, Glance], sizes: dict[str, int | None]) -> tuple[list[Glance], list[str]]:
    """Return what is found of files by name, and which were looked at, in order."""
    asked: list[str] = []

    def look(uris: list[str]) -> list[Glance]:
        asked.extend(uris)
        return [seen[uri] for uri in uris]

    files = [SortedFile(row, uri, sizes[uri]) for row, uri in enumerate(seen)]
    found = glances(lambda: files, look)  # type: ignore[arg-type]
    return [found.get(row, "cells") for row in range(len(files))], asked


def test_the_largest_are_looked_at_until_many_in_a_row_are_cells() -> None:
    seen: dict[str, Glance] = {f"{n}.png": "cells" for n in range(1000)}
    sizes: dict[str, int | None] = {name: 100 + n for n, name in enumerate(seen)}
    seen["500.png"], sizes["500.png"] = "fields", 9000
    seen["501.png"], sizes["501.png"] = CAMERA, 8000
    found, asked = looked(seen, sizes)
    assert found == list(seen.values())
    assert asked[:2] == ["500.png", "501.png"]
    assert len(asked) == 2 * IN_A_ROW


def test_each_format_is_looked_at_by_itself_and_fields_to_the_last() -> None:
    seen: dict[str, Glance] = {f"{n}.jpg": "fields" for n in range(3 * IN_A_ROW)}
    seen |= {f"{n}.png": "cells" for n in range(3 * IN_A_ROW)}
    found, asked = looked(seen, dict.fromkeys(seen, 7))
    assert found == list(seen.values())
    assert sum(name.endswith("jpg") for name in asked) == 3 * IN_A_ROW
    assert sum(name.endswith("png") for name in asked) == IN_A_ROW


def test_where_sizes_are_unknown_files_from_everywhere_are_looked_at() -> None:
    seen: dict[str, Glance] = {
        f"{n}.png": "fields" if n >= 800 else "cells" for n in range(1000)
    }  # a folder of fields behind one of cells
    found, _ = looked(seen, dict.fromkeys(seen))
    assert found == list(seen.values())


def test_more_files_than_are_kept_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Glance] = {f"{n}.png": "fields" for n in range(200)}
    sizes: dict[str, int | None] = {name: n % 5 or None for n, name in enumerate(seen)}
    _, once = looked(seen, sizes)
    monkeypatch.setattr("tasks.smears.segmentation.sorts.KEPT", 7)
    _, asked = looked(seen, sizes)
    assert asked == once
    assert sorted(asked) == sorted(seen)


def files_of(*folders: tuple[str, int]) -> list[SortedFile]:
    """List some files of each folder."""
    names = [f"{folder}/{n}.png" for folder, count in folders for n in range(count)]
    return [SortedFile(row, name, None) for row, name in enumerate(names)]


def test_some_of_each_folder_and_similar_size_are_tried_the_commonest_first() -> None:
    files = files_of(("a", 100), ("b", 30), *[(f"c{n}", 1) for n in range(40)])
    seen: dict[int, Glance] = {
        **{row: (950 + row % 50, 1000) for row in range(100)},
        **{100: "fields", 101: None},
    }
    chosen = to_try(lambda: files, seen)
    assert [file.uri[0] for file in chosen[: 2 * TRIED]] == ["a"] * TRIED + ["b"] * TRIED
    assert chosen == sorted(set(chosen))
    assert chosen[TRIED - 1].row >= 80
    assert len(chosen) == 2 * TRIED + MOST_TRIED // TRIED - 2
    assert to_try(lambda: files[100:102], seen) == []


def test_the_files_of_a_folder_in_an_archive_are_one_group() -> None:
    names = [f"{folder}/{n}.png" for folder in "ab" for n in range(20)]
    files = [SortedFile(n, f"zip://{name}::s3://lab/night.zip", 9) for n, name in enumerate(names)]
    chosen = to_try(lambda: files, {})
    assert [file.row // 20 for file in chosen] == [0] * TRIED + [1] * TRIED


def test_pictures_of_similar_size_in_a_folder_are_what_most_of_them_show() -> None:
    files = files_of(("telephone", 4), ("crops", 3), ("cells", 3), ("new", 2))
    seen: dict[int, Glance] = {
        0: (990, 1000),
        1: (1000, 950),
        2: (960, 960),
        3: None,
        11: (500, 90),
    }
    tried = {0: 40, 1: 0, 2: 30, 4: SEVERAL, 5: SEVERAL, 6: None, 7: 1, 8: 0, 9: SEVERAL}
    found = settle(lambda: files, seen, {files[row]: cells for row, cells in tried.items()})
    # Small files of a folder that was not tried are what most small ones are: as many of either.
    assert found == {**dict.fromkeys((0, 1, 2, 4, 5, 6), "fields"), 3: None, 10: "fields"}
    del tried[4]
    found = settle(lambda: files, seen, {files[row]: cells for row, cells in tried.items()})
    assert found == {**dict.fromkeys((0, 1, 2, 4, 5, 6), "fields"), 3: None}


def test_a_patient_with_few_photographs_is_what_the_night_is() -> None:
    files = files_of(("a", 1), ("b", 2), ("c", 8), ("d", 2))
    tried = dict(zip(files, [1, 1, *[SEVERAL] * 9, 1, 1], strict=True))
    found = settle(lambda: files, dict.fromkeys(range(13), (575, 575)), tried)
    assert found == dict.fromkeys(range(11), "fields")
