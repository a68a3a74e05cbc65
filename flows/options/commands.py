"""List every command by name: its options, the settings that it uses, and its function."""

from dataclasses import dataclass
from importlib.util import find_spec

from flows.options import flows, tools

WING = "flows.smears"
REVIEW = "flows.smears.commands.review"
STORE = ("store",)
DETECTOR = ("alpha",)
CLUSTER = ("cluster", "workers", "scheduler")
TOLD = ("quiet", "debug", "logs")  # every command has these
# Meanings of the first words of commands of two words.
PARTS = {"review": "Have persons read the cells of a batch."}


@dataclass(frozen=True)
class Command:
    """A command: options, place and settings; ``core`` is its place without the wing."""

    options: type[flows.Options]
    function: str
    settings: tuple[str, ...] = ()
    flow: bool = False
    core: str | None = None

    @property
    def place(self) -> str | None:
        """Return the place of its function; None if that is in the wing, which is not installed."""
        is_here = f"{WING}." not in self.function or find_spec(WING) is not None
        return self.function if is_here else self.core

    @property
    def workers(self) -> bool:
        """Return whether the command starts processes on this machine for Dask, most times."""
        return self.flow and "cluster" in self.settings

    @property
    def summary(self) -> str:
        """Return the one sentence that help shows."""
        return (self.options.__doc__ or "").strip()


def _flow(
    options: type[flows.Options], module: str, settings: tuple[str, ...], core: str | None = None
) -> Command:
    name = core or module.rpartition(".")[2]
    place = f"flows.{core}:{core}" if core else None
    return Command(options, f"flows.{module}:{name}", settings, flow=True, core=place)


COMMANDS = {
    "train": _flow(flows.Train, "train", STORE),
    "fit": _flow(flows.Fit, "fit", STORE + DETECTOR + CLUSTER),
    "commission": _flow(flows.Commission, "smears.commission", STORE + CLUSTER),
    "unlearn": _flow(flows.Unlearn, "smears.unlearn", STORE + CLUSTER),
    "retract": _flow(flows.Retract, "retract", STORE + DETECTOR + CLUSTER),
    "segment": _flow(flows.Segment, "smears.segment", STORE + CLUSTER),
    "screen": _flow(flows.Screen, "smears.night", STORE + CLUSTER, "screen"),
    "call": _flow(flows.CallAgain, "smears.call", STORE + CLUSTER),
    "nightly": _flow(flows.Nightly, "smears.night", STORE + CLUSTER, "nightly"),
    "evaluate": _flow(flows.Evaluate, "smears.evaluate", STORE + CLUSTER),
    "prune": _flow(flows.Prune, "prune", STORE),
    "look": Command(tools.Look, "flows.smears.commands.look:look", STORE),
    "status": Command(tools.Status, "flows.commands.status:status", STORE),
    "verify": Command(tools.Verify, "flows.commands.status:verify", STORE),
    "query": Command(tools.Query, "flows.commands.query:query", STORE),
    "schema": Command(tools.Schema, "flows.commands.query:schema"),
    "contours": Command(tools.Contours, "flows.smears.commands.contours:contours", STORE),
    "patient": Command(tools.PatientSheet, "flows.smears.commands.patient:patient", STORE),
    "export": Command(tools.Export, "flows.smears.commands.patient:export", STORE),
    "review export": Command(tools.ReviewExport, f"{REVIEW}.queue:export", STORE),
    "review serve": Command(tools.ReviewServe, f"{REVIEW}.serve:serve", STORE),
    "review import": Command(
        tools.ReviewImport, f"{REVIEW}.imports:import_answers", STORE
    ),
    "review apply": Command(tools.ReviewApply, f"{REVIEW}.apply:apply", STORE),
    "review report": Command(tools.ReviewReport, f"{REVIEW}.queue:report", STORE),
    "doctor": Command(tools.Doctor, "flows.commands.doctor:doctor", STORE + CLUSTER),
    "demo": Command(tools.Demo, "flows.smears.commands.demo:demo", CLUSTER),
}  # fmt: skip
