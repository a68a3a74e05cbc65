"""Fit, screen and nightly with images and store on S3, and workers in processes of their own."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import fsspec
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from flows.commands.status import status
from flows.fit import fit
from flows.options.flows import Fit, Nightly, Screen
from flows.options.tools import Status
from flows.settings import Settings
from flows.smears.night import nightly, screen
from storage.store import Store
from tests.support.images import write_mixed_night


@pytest.fixture(scope="module")
def scheduler(s3_bucket: str) -> Iterator[str]:
    """A scheduler whose workers know of S3 what is in the environment, and nothing else."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_a_night_on_s3_ends_in_a_report_with_every_image_once(
    scheduler: str, s3_bucket: str, store_with_model: Store, cells: Path, tmp_path: Path
) -> None:
    s3 = fsspec.filesystem("s3")
    root = f"{s3_bucket}/{tmp_path.name}"
    s3.put(f"{cells}/", f"{root}/smears/", recursive=True)
    s3.put(f"{store_with_model.root}/", f"{root}/store/", recursive=True)
    write_mixed_night(tmp_path / "night", 2, 8, 1)
    night = sorted(path.name for path in (tmp_path / "night").iterdir())
    with zipfile.ZipFile(tmp_path / "night.zip", "w") as archive:
        for name in night:
            archive.write(tmp_path / "night" / name, name)
    s3.put_file(str(tmp_path / "night.zip"), f"{root}/night.zip")

    settings = Settings(
        store=f"{root}/store", cluster="scheduler", scheduler=scheduler, shard_rows=8
    )
    fitted = fit.fn(Fit(images=f"{root}/smears", batch="first"), settings)
    assert fitted.detector is not None
    # The night has one file that is cut short.
    outcome = screen.fn(Screen(images=f"{root}/night.zip", batch="night"), settings)
    assert outcome.failed
    assert outcome.report.startswith(f"{root}/store/reports/images/batch_date=")
    assert outcome.images == len(night)

    folder = f"{root}/store/reports/images".removeprefix("s3://")
    uris = pq.read_table(folder, filesystem=s3)["uri"].to_pylist()
    assert sorted(uris) == [f"zip://{name}::{root}/night.zip" for name in night]
    with duckdb.connect() as connection:
        connection.register_filesystem(s3)
        query = f"SELECT status, count(*) FROM '{root}/store/reports/images/*/*.parquet' GROUP BY 1"
        counts = dict(connection.sql(query).fetchall())
    assert counts == {"scored": len(night) - 1, "failed": 1}

    assert screen.fn(Screen(images=f"{root}/night.zip", batch="night"), settings).repeated
    assert [row["batch"] for row in status(Status(), settings).batches] == ["first", "night"]
    assert not Store(settings.store).exists("batches", "night", "rows")

    # An inbox on S3 gives each of its images to one night.
    cells_there = sorted(cells.rglob("*.png"))
    for cell in cells_there[:6]:
        s3.put_file(str(cell), f"{root}/inbox/{cell.name}")
    inbox = f"{root}/inbox"
    tonight = nightly.fn(Nightly(inbox=inbox, settle=0), settings)
    assert (tonight.images, tonight.scored) == (6, 6)
    s3.put_file(str(cells_there[6]), f"{root}/inbox/{cells_there[6].name}")
    assert nightly.fn(Nightly(inbox=inbox, settle=0), settings).repeated
    later = nightly.fn(Nightly(inbox=inbox, series="other", settle=0), settings)
    assert (later.images, later.batch.rpartition("-")[0][:5]) == (7, "other")
