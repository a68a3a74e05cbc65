"""Look at all nights of a store: a marimo notebook over its Parquet files.

Open it with ``SLIDEWATCH_STORE=store marimo edit nights.py`` (pip install marimo), and change what
you like. The reports are plain Parquet, one file per batch; ``slidewatch schema`` explains
the columns. For a store on S3, load DuckDB's extension ``httpfs`` in the first cell.
"""

import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    import os

    import duckdb
    import marimo as mo
    import matplotlib.pyplot as plt
    import numpy as np

    store = os.environ.get("SLIDEWATCH_STORE", "store")

    def ask(sql: str, kind: str = "images"):
        """Query the reports of a kind, as the table `reports`; older ones lack some columns."""
        files = f"{store}/reports/{kind}/*/*.parquet"
        scan = f"read_parquet('{files}', union_by_name = true)"
        return duckdb.sql(f"WITH reports AS (FROM {scan}) {sql}").arrow().read_all()

    return ask, mo, np, plt


@app.cell
def _(ask, mo):
    nights = ask(
        """
        SELECT batch_date, batch, count(*) AS images,
            count(*) FILTER (status = 'failed') AS failed,
            count(*) FILTER (verdict = 'review') AS for_review,
            count(*) FILTER (abnormal) AS abnormal,
            avg(probability_Parasitized) AS mean_probability
        FROM reports GROUP BY ALL ORDER BY batch_date, batch
        """
    )
    mo.vstack([mo.md("# Nights"), mo.ui.table(nights.to_pylist(), selection=None)])
    return (nights,)


@app.cell
def _(ask, mo, np, plt):
    summaries = ask(
        """
        SELECT batch_date, batch, images, images - scored AS failed, review, slides,
            slides_shifted, patient_calls
        FROM reports ORDER BY batch_date, batch
        """,
        "batches",
    ).to_pylist()

    def share(part, whole):
        """Divide a count by another; NaN if either is unknown or the second is 0."""
        return part / whole if whole and part is not None else np.nan

    def positive(night):
        calls = dict(night["patient_calls"] or ())
        return share(calls.get("positive", 0), sum(calls.values()))

    trends = {
        "positive patients": [positive(night) for night in summaries],
        "images for review": [share(night["review"], night["images"]) for night in summaries],
        "slides shifted": [share(night["slides_shifted"], night["slides"]) for night in summaries],
        "images failed": [share(night["failed"], night["images"]) for night in summaries],
    }
    drawing, charts = plt.subplots(2, 2, figsize=(9, 5), sharex=True)
    for chart, (title, shares) in zip(charts.flat, trends.items(), strict=True):
        chart.plot(range(len(shares)), shares, marker="o", markersize=3)
        chart.set(title=title, ylim=(0, None))
    for chart in charts[1]:
        chart.set_xlabel("nights, in order")
    drawing.tight_layout()
    mo.vstack([mo.md("## From night to night"), mo.as_html(drawing)])
    return (trends,)


@app.cell
def _(mo, nights):
    names = nights["batch"].to_pylist()
    night = mo.ui.dropdown(names, value=names[-1], label="night")
    mo.vstack([mo.md("## One night"), night])
    return (night,)


@app.cell
def _(ask, mo, night, np, plt):
    cells = ask(
        f"""
        SELECT diagnosis, abnormality FROM reports
        WHERE batch = '{night.value}' AND abnormality IS NOT NULL
        """
    )
    scores = cells["abnormality"].to_numpy()
    diagnoses = np.asarray(cells["diagnosis"].to_pylist())
    figure, axes = plt.subplots(figsize=(7, 3))
    for diagnosis in np.unique(diagnoses):
        axes.hist(
            scores[diagnoses == diagnosis], bins=60, histtype="step", density=True, label=diagnosis
        )
    axes.set(xlabel="abnormality", ylabel="density of cells", title=night.value)
    if len(diagnoses):
        axes.legend()
    mo.as_html(figure)
    return (cells,)


@app.cell
def _(ask, mo, night):
    slides = ask(
        f"""
        SELECT slide_id, count(*) AS cells, avg(abnormal::DOUBLE) AS abnormal,
            count(*) FILTER (diagnosis = 'Parasitized') AS parasitized
        FROM reports WHERE batch = '{night.value}' AND status = 'scored'
        GROUP BY slide_id ORDER BY abnormal DESC NULLS LAST, slide_id LIMIT 20
        """
    )
    mo.vstack(
        [
            mo.md("## Slides with most abnormal cells"),
            mo.ui.table(slides.to_pylist(), selection=None),
        ]
    )
    return (slides,)


if __name__ == "__main__":
    app.run()
