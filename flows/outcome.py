"""Describe the outcome of a command, as data for machines and in a few lines for people."""

import json
import re
import shlex
import shutil
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, Field

WIDTH = 200  # columns
LONG = re.compile(r"[^\s/]{256,}")  # no file has so long a name


class Outcome(BaseModel):
    """The result of a flow or command. ``failed`` says that something needs a person."""

    @property
    def failed(self) -> bool:
        """Return whether something needs a person, so that the command's exit code is not 0."""
        return bool(self.problem)

    @property
    def problem(self) -> str:
        """Say what needs a person, on one line, where the text does not say it."""
        return ""

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        return self._text()

    @abstractmethod
    def _text(self) -> str: ...

    def pieces(self, as_json: bool) -> Iterator[str]:
        """Yield the outcome's text in pieces, so that a long answer is never held whole."""
        text = self.model_dump_json(indent=2) if as_json else printable(self.text(), keep="\n")
        yield text + "\n"


class DamageOutcome(Outcome):
    """An outcome whose ``damaged`` files or records need a person."""

    damaged: list[str] = Field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Return whether anything is damaged."""
        return bool(self.damaged)


def printable(text: str, keep: str = "") -> str:
    r"""Write a text on one line that a person can read: names of files are never `LONG` signs.

    White space is folded, and characters that steer a terminal are spelt out; those to ``keep``
    stay.

    >>> printable("one\nline \x1b[31m"), printable("no patient " + 6000 * "9")
    ('one line \\x1b[31m', 'no patient 99999999999999999999…9999999999 (6,000 characters)')
    """
    text = LONG.sub(
        lambda word: f"{word[0][:20]}…{word[0][-10:]} ({len(word[0]):,} characters)", text
    )
    return "".join(
        sign
        if sign.isprintable() or sign in keep
        else (" " if sign.isspace() else sign.encode("unicode_escape").decode())
        for sign in text
    )


def quoted(name: str) -> str:
    r"""Write a file's name, which may have any signs, so that it reads as a name on one line.

    >>> quoted("field 3.jpg"), quoted("field.jpg: Negative\ngreen light")
    ('field 3.jpg', '"field.jpg: Negative\\ngreen light"')
    """
    return name if name.isprintable() else json.dumps(name)


def shown_width() -> int:
    """Return how many columns standard output shows; `WIDTH` where no terminal says it."""
    return shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH


def numbered(counts: Mapping[str, int]) -> str:
    """List numbers and what they count.

    >>> numbered({"positive": 2, "negative": 1200})
    '2 positive, 1,200 negative'
    """
    return ", ".join(f"{n:,} {what}" for what, n in counts.items())


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Align names and values in two columns; the values of a list are a line each, and no other."""
    width = max(len(name) for name, _ in rows)
    lines: list[tuple[str, object]] = []
    for name, value in rows:
        first, *others = value if isinstance(value, list) else [value]
        lines += [(name, first), *(("", other) for other in others)]
    return "\n".join(f"  {name:<{width}}  {printable(str(line))}" for name, line in lines)


def shell_command(name: str, *arguments: str) -> str:
    """Write a command as a person would type it."""
    return shlex.join(["slidewatch", *name.split(), *arguments])
