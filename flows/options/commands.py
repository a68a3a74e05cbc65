"""List every command by name: its options, the settings that it uses, and its function."""

from dataclasses import dataclass

from flows.options import flows, tools

STORE = ("store",)
DETECTOR = ("alpha",)
CLUSTER = ("cluster", "workers", "scheduler")
TOLD = ("quiet", "debug", "logs")  # every command has these
# Meanings of the first words of commands of two words.
PARTS = {"review": "have persons read the cells of a batch", "data": "fetch public images"}


@dataclass(frozen=True)
class Command:
    """A command: its options, the place of its function, and the settings that are options too.

    ``flow`` marks a flow, which Prefect can run.
    """

    options: type[flows.Options]
    function: str
    settings: tuple[str, ...] = ()
    flow: bool = False

    @property
    def workers(self) -> bool:
        """Return whether the command starts processes on this machine for Dask, most times."""
        return self.flow and "cluster" in self.settings

    @property
    def summary(self) -> str:
        """Return the one sentence that help shows."""
        return (self.options.__doc__ or "").strip()


def _flow(
    options: type[flows.Options], module: str, settings: tuple[str, ...], name: str | None = None
) -> Command:
    return Command(options, f"flows.{module}:{name or module}", settings, flow=True)


COMMANDS = {
    "train": _flow(flows.Train, "train", STORE),
    "fit": _flow(flows.Fit, "fit", STORE + DETECTOR + CLUSTER),
    "commission": _flow(flows.Commission, "commission", STORE + CLUSTER),
    "unlearn": _flow(flows.Unlearn, "unlearn", STORE + CLUSTER),
    "retract": _flow(flows.Retract, "retract", STORE + DETECTOR + CLUSTER),
    "segment": _flow(flows.Segment, "segment", STORE + CLUSTER),
    "screen": _flow(flows.Screen, "night", STORE + CLUSTER, "screen"),
    "call": _flow(flows.Call, "call", STORE + CLUSTER),
    "nightly": _flow(flows.Nightly, "night", STORE + CLUSTER, "nightly"),
    "evaluate": _flow(flows.Evaluate, "evaluate", STORE + CLUSTER),
    "prune": _flow(flows.Prune, "prune", STORE),
    "look": Command(tools.Look, "flows.commands.look:look", STORE),
    "status": Command(tools.Status, "flows.commands.status:status", STORE),
    "verify": Command(tools.Verify, "flows.commands.status:verify", STORE),
    "query": Command(tools.Query, "flows.commands.query:query", STORE),
    "schema": Command(tools.Schema, "flows.commands.query:schema"),
    "contours": Command(tools.Contours, "flows.commands.contours:contours", STORE),
    "patient": Command(tools.PatientSheet, "flows.commands.patient:patient", STORE),
    "review export": Command(tools.ReviewExport, "flows.commands.review.queue:export", STORE),
    "review serve": Command(tools.ReviewServe, "flows.commands.review.serve:serve", STORE),
    "review import": Command(
        tools.ReviewImport, "flows.commands.review.queue:import_answers", STORE
    ),
    "review apply": Command(tools.ReviewApply, "flows.commands.review.apply:apply", STORE),
    "review report": Command(tools.ReviewReport, "flows.commands.review.queue:report", STORE),
    "doctor": Command(tools.Doctor, "flows.commands.doctor:doctor", STORE + CLUSTER),
    "demo": Command(tools.Demo, "flows.commands.demo:demo", CLUSTER),
    "data malaria": Command(tools.Malaria, "flows.commands.malaria_data:malaria"),
}  # fmt: skip
