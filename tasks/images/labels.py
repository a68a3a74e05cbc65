"""Read the label of an image from the folder that it lies in."""

from collections import Counter
from collections.abc import Iterable


class FolderLabels:
    """The classes that folders are named after, and the folders that are named almost so.

    A folder whose name differs from a class by the case of letters alone has that class: its images
    would otherwise have no label, and a class could be missing without a word. ``renamed`` maps the
    folders that have come by to their classes, so that this can be said.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        self._classes = frozenset(classes)
        often = Counter(map(str.casefold, self._classes))
        self._folded = {
            each.casefold(): each for each in self._classes if often[each.casefold()] == 1
        }
        self.renamed: dict[str, str] = {}

    def of(self, folder: str) -> str | None:
        """Return the label of images directly in a folder of a name; None where it has none.

        >>> labels = FolderLabels(["Parasitized", "Uninfected"])
        >>> labels.of("Uninfected"), labels.of("parasitized"), labels.of("monday")
        ('Uninfected', 'Parasitized', None)
        >>> labels.renamed
        {'parasitized': 'Parasitized'}
        """
        if folder in self._classes:
            return folder
        found = self._folded.get(folder.casefold())
        if found is not None:
            self.renamed[folder] = found
        return found
