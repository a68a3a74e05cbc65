"""Counts of faults tried and what came of them, and the table that they are printed as."""

from collections import Counter
from dataclasses import dataclass, field

COLUMNS = ("tried", "survived", "lost", "doubled", "mixed", "hung")


@dataclass
class Counts:
    """Counts by kind of fault; what is not survived stands in ``wrong``, a line each."""

    title: str
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str, *found: str) -> None:
        """Count a trial; ``found`` are the columns in which it was not survived."""
        row = self.rows.setdefault(kind, Counter())
        row["tried"] += 1
        row["survived"] += not found
        row.update(found)
        if found:
            self.wrong.append(f"{kind}: {where}: {', '.join(found)}")

    def note(self, kind: str, column: str, count: int = 1) -> None:
        """Count something that is told beside the usual columns, and is no failure."""
        self.rows.setdefault(kind, Counter())[column] += count

    def show(self) -> None:
        """Print the table."""
        others = sorted({name for row in self.rows.values() for name in row} - set(COLUMNS))
        names = [*COLUMNS, *others]
        print(f"\n{self.title:<44}" + "".join(f"{name:>11}" for name in names))
        for kind, row in self.rows.items():
            print(f"{kind:<44}" + "".join(f"{row[name]:>11}" for name in names))
        for line in self.wrong:
            print(f"  {line}")

    def check(self) -> None:
        """Print the table, and fail where anything was not survived."""
        self.show()
        assert not self.wrong, self.wrong[:20]
