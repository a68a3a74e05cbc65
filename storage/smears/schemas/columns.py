"""Make columns of the usual types."""

from storage.reports.schemas.shared import COUNT, SHARE, TEXT, Column, number_of


def count(name: str, meaning: str, unit: str | None = None, sql: str | None = None) -> Column:
    """Make a column of integers."""
    return Column(name, COUNT, meaning, unit, sql)


def images(name: str, meaning: str, condition: str) -> Column:
    """Make a column that counts the images for which a condition in SQL holds."""
    return count(name, meaning, "images", number_of(condition))


def number(name: str, meaning: str, unit: str | None = None, sql: str | None = None) -> Column:
    """Make a column of float64."""
    return Column(name, SHARE, meaning, unit, sql)


def text(name: str, meaning: str, unit: str | None = None, sql: str | None = None) -> Column:
    """Make a column of texts that recur, dictionary-encoded."""
    return Column(name, TEXT, meaning, unit, sql)
