"""Run the command `data malaria`: fetch the public malaria cell images."""

import sys
from pathlib import Path

import pooch

from flows.commands.written import to_write, written
from flows.monitoring.console import CONSOLE
from flows.options.tools import Malaria
from flows.outcome import Outcome
from flows.settings import Settings
from storage.store import Store
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images

URL = "https://data.lhncbc.nlm.nih.gov/public/Malaria/cell_images.zip"
NAME = "cell_images.zip"


class DataOutcome(Outcome):
    """A verified archive of images."""

    archive: str
    sha256: str
    images: int

    def _text(self) -> str:
        return (
            f"{self.archive}: {self.images:,} images, sha256 {self.sha256}\n"
            f"next: slidewatch train --images {self.archive}"
        )


def malaria(options: Malaria, settings: Settings) -> DataOutcome:
    """The archive is not unpacked: slidewatch reads it as it is. Its checksum is recorded next to
    it when it is first fetched, and verified from then on.
    """
    folder = Path(options.to).absolute()
    archive, record = folder / NAME, folder / f"{NAME}.sha256"
    to_write(str(archive), Store(settings.store), force=True)  # an archive is never replaced
    known = record.read_text().split()[0] if record.exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        _fetch(archive)
    digest = pooch.file_hash(str(archive), alg="sha256")
    if known not in (None, digest):
        raise SourceError(
            f"{archive} has sha256 {digest}, but {known} was recorded in {record.name}: it is "
            "damaged or another file; remove it and run the command again"
        )
    images = list_images(str(archive)).num_rows
    with written(record) as stage:
        stage.write_text(f"{digest}  {NAME}\n")
    return DataOutcome(archive=str(archive), sha256=digest, images=images)


def _fetch(archive: Path) -> None:
    stage = archive.with_name(f".part-{NAME}")
    try:
        watched = sys.stderr.isatty() and not CONSOLE.quiet
        pooch.retrieve(URL, None, fname=stage.name, path=stage.parent, progressbar=watched)
        if not list_images(str(stage)).num_rows:
            raise SourceError(f"{URL} holds no images")
        stage.replace(archive)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{URL} cannot be fetched ({error}): fetch it by other means, and put it at {archive}"
        ) from None
    finally:
        stage.unlink(missing_ok=True)
