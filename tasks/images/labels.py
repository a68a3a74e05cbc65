"""Read the label of an image from the name of its folder."""

from collections import Counter
from collections.abc import Iterable


class FolderLabels:
    """The classes that folders are named after, and folders with almost the same name.

    A folder whose name differs from a class only in case has that class: otherwise its images would
    have no label, and a class could silently be missing. ``renamed`` maps such folders to their
    classes, for a message.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        self._classes = frozenset(classes)
        often = Counter(map(str.casefold, self._classes))
        self._folded = {
            each.casefold(): each for each in self._classes if often[each.casefold()] == 1
        }
        self.renamed: dict[str, str] = {}

    def of(self, folder: str) -> str | None:
        """Return the label of images directly in a folder of this name; None without one.

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
