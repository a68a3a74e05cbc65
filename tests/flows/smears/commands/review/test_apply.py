"""A night with persons' answers as labels."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.options.tools import ReviewApply
from flows.settings import Settings
from flows.smears.commands.review.apply import AppliedOutcome, apply
from flows.smears.commands.review.session import open_session
from flows.smears.stages.answers import carry_answers
from storage.smears.answers import read_answers
from storage.store import Store, StoreError
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images
from tests.support.reading import night


def applied(store: Store, to: Path, **given: Any) -> AppliedOutcome:
    return apply(ReviewApply(to=str(to), batch="night", **given), Settings(store=store.url))


def test_a_laboratory_learns_the_night_without_what_is_no_cell(
    store_with_model: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = night(store_with_model, tmp_path / "cells")
    with pytest.raises(StoreError, match="no answer on batch night has been saved"):
        applied(store_with_model, tmp_path / "night.parquet")
    session, _ = open_session(store_with_model, batch, limit=100, per_slide=99, unmarked=0.25)
    parasite, healthy, white, unsure = session.queue("Ada")[:4]
    for image, answer in ((parasite, "Parasitized"), (healthy, "Uninfected"),
                           (white, "white cell"), (unsure, "unsure")):  # fmt: skip
        session.answer("Ada", image, answer, 1.0)
    session.imported(keep=True)
    told = applied(store_with_model, tmp_path / "night.parquet", dry_run=True)
    assert (told.images, told.labels, told.by_persons, told.no_cells) == (23, 2, 2, 1)
    assert "would have 23 images" in told.text()
    assert not (tmp_path / "night.parquet").exists()
    done = applied(store_with_model, tmp_path / "night.parquet")
    assert "commission --laboratory NAME" in done.text()
    assert "left out: " not in capsys.readouterr().err
    session.answer("Ada", session.queue("Ada")[4], "Parasitized", 1.0)  # and it is not saved
    assert applied(store_with_model, tmp_path / "night.parquet", force=True) == done
    assert "left out: 1 cell on which readers differ, or" in capsys.readouterr().err
    assert len(done.commands) == 1  # labels of the source, to train on, there were none
    classes = list(session.card.classes)
    listed = list_images(str(tmp_path / "night.parquet"), classes=classes)
    paths = [uri.removeprefix("file://") for uri in listed["uri"].to_pylist()]
    label = dict(zip(paths, listed["label"].to_pylist(), strict=True))
    uri = {image: str(row["uri"]) for image, row in session.cells.items()}
    assert uri[white] not in label
    assert [label[uri[each]] for each in (parasite, healthy, unsure)] == [
        "Parasitized", "Uninfected", None,
    ]  # fmt: skip
    with pytest.raises(SourceError, match="there already"):
        applied(store_with_model, tmp_path / "night.parquet")
    assert pq.read_table(tmp_path / "night.parquet").num_rows == 23
    again = session.batch.model_copy(update={"name": "again"})
    carry_answers(store_with_model, again, ["gone.parquet", str(tmp_path / "night.parquet")])
    assert [*read_answers(store_with_model, "again")] == [*read_answers(store_with_model, "night")]
