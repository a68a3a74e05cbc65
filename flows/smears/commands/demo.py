"""Run the command `demo`: train, fit and screen on images that slidewatch renders itself."""

import shutil
import time
from pathlib import Path

import duckdb
import pyarrow as pa

from flows.fit import fit
from flows.monitoring import console
from flows.options import flows, tools
from flows.outcome import Outcome, table
from flows.prefect.decorators import run
from flows.prefect.runs import runs_page
from flows.settings import Settings
from flows.smears.night import screen
from flows.train import train
from tasks.images.access.files import SourceError
from tasks.smears.synthetic.rendered_cells import write_collection, write_night

MARK = ".slidewatch-demo"
LOCAL_SERVER = "http://127.0.0.1:4200/api"  # where `prefect server start` listens
ABNORMAL_FIRST = """SELECT parse_filename(uri) AS image, diagnosis, verdict, review_reason,
       round(abnormality, 1) AS abnormality, round(p_value, 4) AS p_value
FROM '{reports}/*/*.parquet'
ORDER BY abnormality DESC NULLS LAST
LIMIT 10"""
BY_KIND = """SELECT coalesce(planted.kind, '{ordinary}'), count(*),
       count(*) FILTER (abnormal OR status = 'failed')
FROM '{reports}/*/*.parquet' LEFT JOIN planted ON parse_filename(uri) = name GROUP BY ALL"""
ORDINARY = "ordinary cell"


class DemoOutcome(Outcome):
    """The images planted in the batch, by kind, and how many of them were found."""

    seconds: float
    planted: dict[str, int]
    caught: dict[str, int]
    query: str
    answer: str
    runs: str | None

    @property
    def failed(self) -> bool:
        """Return whether every image of a planted kind was missed."""
        return any(not self.caught[kind] for kind in self.planted if kind != ORDINARY)

    def _text(self) -> str:
        rows: list[tuple[str, object]] = [
            (kind, f"{self.caught[kind]:>4} of {number:>4} called abnormal, or failed")
            for kind, number in self.planted.items()
        ]
        return (
            f"Images in the batch, and those sent to a person:\n{table(rows)}\n\n"
            f"The most abnormal images, by this query of the report:\n\n{self.query}\n\n"
            f"{self.answer}\n"
            f"{self._runs()}\n"
            f"The demo took {self.seconds:.0f} s."
        )

    def _runs(self) -> str:
        if self.runs:
            return f"Its four runs in Prefect: {self.runs}"
        return (
            "To see each run in a browser, start a server with: prefect server start\n"
            f"and in another terminal: PREFECT_API_URL={LOCAL_SERVER} slidewatch demo"
        )


def demo(options: tools.Demo, settings: Settings) -> DemoOutcome:
    """Show the whole way on rendered cells, in a folder that only earlier demos may have filled."""
    started = time.monotonic()
    root = _clean(Path(options.folder))
    settings = settings.model_copy(update={"store": str(root / "store"), "shard_rows": 128})
    console.tell("Rendering smears of 32 patients, and a batch with abnormal images in it")
    for week, first in (("week-1", 1), ("week-2", 17)):
        write_collection(
            root / "smears" / week,
            patients=16,
            cells_per_patient=40,
            parasitized_fraction=0.5,
            seed=first,
            first_patient=first,
        )
    planted = write_night(
        root / "night",
        patients=8,
        cells_per_patient=50,
        parasitized_fraction=0.2,
        planted_per_kind=8,
        seed=100,
        first_patient=101,
    )
    _say(f"\n$ slidewatch train --images {root}/smears --epochs 3")
    _say(run(train, flows.Train(images=str(root / "smears"), epochs=3), settings).text())
    for week in ("week-1", "week-2"):
        _say(f"\n$ slidewatch fit --images {root}/smears/{week} --batch {week}")
        smears = str(root / "smears" / week)
        _say(run(fit, flows.Fit(images=smears, batch=week), settings).text())
    _say(f"\n$ slidewatch screen --images {root}/night --batch night-1")
    night = run(screen, flows.Screen(images=str(root / "night"), batch="night-1"), settings)
    _say(night.text())
    return _look_back(root, planted, started)


def _say(text: str) -> None:
    for line in text.splitlines():  # a message is one line, whatever names are in it
        console.tell(line)


def _look_back(root: Path, planted: dict[str, str], started: float) -> DemoOutcome:
    reports = root / "store" / "reports" / "images"
    query = ABNORMAL_FIRST.format(reports=reports)
    names = pa.table({"name": list(planted), "kind": list(planted.values())})
    with duckdb.connect() as database:
        database.register("planted", names)
        kinds = database.execute(BY_KIND.format(reports=reports, ordinary=ORDINARY)).fetchall()
        kinds.sort(key=lambda row: (row[0] == ORDINARY, row[0]))
        answer = str(database.sql(query))
    return DemoOutcome(
        seconds=time.monotonic() - started,
        planted={kind: number for kind, number, _ in kinds},
        caught={kind: caught for kind, _, caught in kinds},
        query=query,
        answer=answer,
        runs=runs_page(),
    )


def _clean(root: Path) -> Path:
    """Empty the demo's folder, or make it; only files of an earlier demo are removed."""
    mark = root / MARK
    if root.exists() and any(root.iterdir()) and not mark.exists():
        raise SourceError(f"{root} exists and holds no earlier demo: give another --folder")
    for name in ("smears", "night", "store"):
        shutil.rmtree(root / name, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return root
