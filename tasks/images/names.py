"""Parse class, patient, slide and field of view from the names of files and folders."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from tasks.images.access.addresses import path_of
from tasks.types import OF_LABORATORY

# NIH names: C33P1thinF_IMG_20150619_114756a_cell_179.png is patient, field of view, cell.
_NIH = re.compile(
    r"^(?P<patient>.+?)_?thin.*?(?P<field>IMG_(?P<time>\d{8}_\d{6})\w*?)_cell_\d+", re.IGNORECASE
)
_LABORATORY = re.compile(r"^(?P<laboratory>[A-Za-z][\w-]*)=(?P<source>.+)$", re.DOTALL)


def batch_name(source: str) -> str:
    """Name a batch after its images, in signs that a batch may have.

    >>> batch_name("/photos/ward 3/"), batch_name("a field, seen.png"), batch_name("*.jpg")
    ('ward-3', 'a-field-seen', 'photographs')
    """
    stem = PurePosixPath(path_of(source).rstrip("/")).stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-_.")[:80] or "photographs"


@dataclass(frozen=True)
class Name:
    """The data in a file's name; None for missing parts."""

    patient_id: str | None = None
    slide_id: str | None = None
    acquired_at: datetime | None = None


def parse_name(name: str) -> Name:
    """Parse patient, field of view (the slide id) and time from an NIH file name."""
    match = _NIH.match(name)
    if match is None:
        return Name()
    patient = match["patient"]
    try:
        acquired_at = datetime.fromisoformat(match["time"].replace("_", "T"))
    except ValueError:
        acquired_at = None
    return Name(patient, f"{patient}_{match['field']}", acquired_at)


def laboratory_of_source(source: str) -> tuple[str | None, str]:
    """Split NAME=PATH into a laboratory and the source of its images."""
    match = None if Path(source).exists() else _LABORATORY.match(source)
    return (match["laboratory"], match["source"]) if match else (None, source)


def patient_of_laboratory(
    laboratory: str, patient_id: str | None, slide_id: str | None
) -> str | None:
    """Name a patient after a laboratory; a slide that names none counts as one."""
    who = patient_id or slide_id
    return f"{laboratory}{OF_LABORATORY}{who}" if who else None


class FolderLabels:
    """The classes that folders are named after.

    A folder whose name differs from a class only in case has that class: otherwise its images would
    silently have no label. ``renamed`` maps such folders to their classes, for a message.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        self._classes = frozenset(classes)
        often = Counter(map(str.casefold, self._classes))
        self._folded = {
            each.casefold(): each for each in self._classes if often[each.casefold()] == 1
        }
        self.renamed: dict[str, str] = {}

    def of(self, folder: str) -> str | None:
        """Return the label of images directly in a folder of this name; None without one."""
        label = folder if folder in self._classes else self._folded.get(folder.casefold())
        if label and label != folder:
            self.renamed[folder] = label
        return label
