"""Make the report of an evaluation, an HTML page, from its table of results by DuckDB's PIVOT."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from markupsafe import Markup

from tasks.metrics import metrics
from tasks.smears.evaluation import scored
from tasks.smears.evaluation.compositions import OWN_NORMAL
from tasks.smears.evaluation.measures import HOME, VERDICT
from tasks.smears.visualisation import charts, page
from tasks.types import Float

ATTACKS, CORRUPTIONS = "\"set\" LIKE 'attack/%'", "\"set\" LIKE 'corruption/%'"
CLEAN = f"composition = '{metrics.SINGLE}'"
OF_DETECTOR = "(detector IS NOT NULL)"
SET = ('"set"', "strength")
HEADINGS = (*SET, "composition")
BY_DETECTOR = (*HEADINGS, "detector")
CAUGHT = "caught at 0.05"
COMPOSED = (CAUGHT, "false alarms at 0.05", "AUROC", "no smear", "shifted")
# The detectors in charts, in this order.
CHARTED = (scored.OWN, VERDICT, "maximum softmax", "energy", "ODIN",
           "k nearest neighbours", "mahalanobis, last layer", "ViM")  # fmt: skip


class PageTable(NamedTuple):
    """A table whose rows begin with their headings; a cell is a value with its bounds, or None."""

    caption: str
    head: list[str]
    rows: list[tuple[list[str], list[dict[str, str] | None]]]


def robustness_page(title: str, facts: Mapping[str, str], results: pa.Table) -> str:
    """Make a page that needs no other file from a table of `EVALUATION_SCHEMA`."""
    place = pa.array(range(results.num_rows))
    with duckdb.connect() as database:
        database.register("results", results.append_column("place", place))
        database.execute(
            """
            CREATE TABLE means AS
            SELECT "set", strength, composition, share, detector, measure, avg(value) AS value,
                CASE WHEN count(value) > 1 THEN min(value) ELSE min(low) END AS low,
                CASE WHEN count(value) > 1 THEN max(value) ELSE max(high) END AS high,
                min(place) AS place
            FROM results GROUP BY ALL
            """
        )
        seeds = len(results["seed"].unique())
        pivot = partial(_pivot, database)
        at_home, alone = f"\"set\" = '{HOME}' AND {CLEAN}", "Ordinary cells alone"
        single = f"{CLEAN} AND {OF_DETECTOR}"
        return page.render(
            "robustness.html",
            title=title,
            facts=facts,
            seeds=seeds,
            shown=[*_shares(database), *_strengths(database)],
            # Single cells that should be caught.
            summary=[
                table
                for measure in ("AUROC", "caught")
                for table in pivot(measure, f"measure = '{measure}' AND {single}", "detector", SET)
            ],
            ordinary=[
                *pivot(alone, f"share = 0 AND {OF_DETECTOR}", "detector", (*HEADINGS, "measure")),
                *pivot(f"{alone}: diagnosis", f"share = 0 AND NOT {OF_DETECTOR}", "measure"),
            ],
            # The share caught in slides and nights, by the strange share.
            composed=[
                table
                for measure in COMPOSED
                for table in pivot(
                    measure, f"measure = '{measure}' AND share > 0", "share", BY_DETECTOR
                )
            ],
            attacks=pivot("Attacks", f"{ATTACKS} AND NOT {OF_DETECTOR}", "measure", SET),
            diagnosis=pivot("Clean cells", at_home, "measure", SET),
            covariates=list(_covariates(database)),
        )


def _pivot(
    database: duckdb.DuckDBPyConnection,
    caption: str,
    where: str,
    on: str,
    keys: Sequence[str] = HEADINGS,
) -> list[PageTable]:
    """Make the table of some means, a column for each value of ``on``; none without any."""
    columns = [
        value
        for (value,) in database.sql(
            f"SELECT {on} FROM means WHERE {where} GROUP BY {on} ORDER BY min(place)"
        ).fetchall()
    ]
    if not columns:
        return []
    names, group = ", ".join(map(_literal, columns)), ", ".join(keys)
    records = database.sql(
        f"""
        FROM (
            PIVOT (
                SELECT {group}, {on}, {{'value': value, 'low': low, 'high': high}} AS cell,
                    min(place) OVER (PARTITION BY {group}) AS place
                FROM means WHERE {where}
            ) ON {on} IN ({names}) USING any_value(cell) GROUP BY {group}, place
        ) ORDER BY place
        """
    ).fetchall()
    rows = [
        (
            [_set_label(row[0], row[1]), *(str(text or "") for text in row[2 : len(keys)])],
            [_cell(cell) for cell in row[len(keys) + 1 :]],
        )
        for row in records
    ]
    shown = [f"{each:.0%}" if isinstance(each, float) else each for each in columns]
    head = ["set", *keys[2:], *shown]
    return [PageTable(caption, head, rows)]


def _literal(value: str | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def _cell(interval: dict[str, float | None] | None) -> dict[str, str] | None:
    if interval is None or interval["value"] is None:
        return None
    value, low, high = (charts.decimals(interval[name]) for name in ("value", "low", "high"))
    return {"value": value, "spread": "" if {low, high} <= {value, "–"} else f"{low} to {high}"}


def _set_label(name: str, strength: float | None) -> str:
    """Name a set and its strength.

    >>> _set_label("attack/fgsm", 8 / 255), _set_label("corruption/jpeg", 3.0)
    ('attack/fgsm, 8/255', 'corruption/jpeg, level 3')
    """
    if strength is None:
        return name
    if name.startswith("corruption/"):
        return f"{name}, level {strength:g}"
    parts = 255 * strength
    close = abs(parts - round(parts)) < 1e-3
    return f"{name}, {round(parts)}/255" if close else f"{name}, {charts.decimals(strength)}"


def _shares(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, Markup]]:
    """Draw the share caught of strange images in slides and nights, by their share there."""
    for kind, many in (("slides", "slides"), ("night", "nights")):
        where = (
            f"measure = '{CAUGHT}' AND detector = '{OWN_NORMAL}' AND strength IS NULL "
            f"AND share > 0 AND composition IN ('{kind}', '{kind} of {HOME}')"
        )
        if series := _series(database, where, '"set"', "share"):
            title = f"Strange images caught in {many}, by their share there"
            yield _chart(series, "share of strange images", CAUGHT, title)


def _strengths(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, Markup]]:
    """Draw the AUROC of each attack and the share caught, by strength and detector."""
    sets = database.sql(
        f'SELECT "set" FROM means WHERE {ATTACKS} GROUP BY ALL '
        "HAVING count(DISTINCT strength) > 1 ORDER BY min(place)"
    ).fetchall()
    for (name,) in sets:
        for measure in ("caught", "AUROC"):
            where = f"measure = '{measure}' AND {CLEAN} AND \"set\" = {_literal(name)}"
            series = _series(database, where, "detector", "strength * 255")
            shown = {each: series[each] for each in CHARTED if each in series}
            if shown:
                yield _chart(shown, "change of a pixel, 255ths", measure, f"{name}: {measure}")


def _covariates(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, Markup]]:
    """Draw slidewatch's false alarms, and the accuracy, by level of each corruption."""
    for measure in ("called abnormal", "accuracy"):
        where = f"measure = '{measure}' AND {CLEAN} AND {CORRUPTIONS}"
        series = list(_series(database, where, '"set"', "strength").items())
        half = -(-len(series) // 2)
        for some in (series[:half], series[half:]):
            if some:
                yield _chart(dict(some), "level", measure, f"Changed cells: {measure} by level")


Series = dict[str, tuple[Float, Float]]


def _series(database: duckdb.DuckDBPyConnection, where: str, by: str, x: str) -> Series:
    """Select places, an expression ``x``, and means, (n,) each, for each value of a column."""
    rows = database.sql(
        f"SELECT {by}, list({x} ORDER BY {x}), list(value ORDER BY {x}) "
        f"FROM means WHERE {where} AND value IS NOT NULL GROUP BY {by} ORDER BY min(place)"
    ).fetchall()
    return {name: (np.asarray(x, np.float64), np.asarray(y, np.float64)) for name, x, y in rows}


def _chart(series: Series, x_label: str, y_label: str, title: str) -> tuple[str, Markup]:
    return title, charts.lines(series, x_label=x_label, y_label=y_label, title=title)
