import io
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from flows.smears.jobs.drawings import DrawingJob, draw, draw_thumbnail
from tasks.smears.visualisation.overlay import THUMBNAIL
from tests.support.images import whole_file


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def job(cells: Path, tmp_path: Path) -> DrawingJob:
    """Cells to draw, one of them large, one gone, one changed and one not an image any more."""
    paths = sorted(cells.rglob("*.png"))
    changed, broken = tmp_path / "changed.png", tmp_path / "broken.png"
    changed.write_bytes(paths[0].read_bytes())
    broken.write_bytes(b"not an image")
    large = tmp_path / "large.png"
    Image.new("RGB", (3000, 2000), (200, 150, 160)).save(large)
    wanted = [
        (paths[0], digest(paths[0])),
        (large, digest(large)),
        (tmp_path / "gone.png", "0" * 64),
        (changed, digest(paths[1])),
        (broken, digest(broken)),
        (paths[3], digest(paths[3])),
    ]
    return DrawingJob(
        tuple((whole_file(str(path)), image_id) for path, image_id in wanted), draw_thumbnail
    )


def test_cells_come_back_in_order_and_what_cannot_be_drawn_says_why(job: DrawingJob) -> None:
    drawn = draw(job)
    assert (
        [each for each in drawn if isinstance(each, str)]
        == drawn[2:5]
        == [
            "the image cannot be read any more",
            "the file has changed since it was screened",
            "the image cannot be read any more: not_an_image",
        ]
    )
    for picture in (drawn[0], drawn[1], drawn[5]):
        assert isinstance(picture, bytes)
        assert max(Image.open(io.BytesIO(picture)).size) <= THUMBNAIL
        assert len(picture) < 20_000
    assert draw(job) == drawn


def test_a_cell_that_kills_workers_is_missing_and_the_others_are_as_they_were(
    job: DrawingJob,
) -> None:
    drawn, rest = draw(job), draw(job.quarantine([1]))
    assert rest[1] == "this image alone kills the worker that decodes it"
    assert [rest[0], *rest[2:]] == [drawn[0], *drawn[2:]]
