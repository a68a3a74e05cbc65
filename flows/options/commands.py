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

    ``flow`` tells a flow of Prefect, ``workers`` what starts processes on this machine for Dask.
    """

    options: type[flows.Options]
    function: str
    settings: tuple[str, ...] = ()
    flow: bool = False
    workers: bool = False

    @property
    def summary(self) -> str:
        """Return the one sentence that help shows."""
        return (self.options.__doc__ or "").strip()


COMMANDS = {
    "train": Command(flows.Train, "flows.train:train", STORE, flow=True),
    "fit": Command(
        flows.Fit, "flows.fit:fit", STORE + DETECTOR + CLUSTER, flow=True, workers=True
    ),
    "commission": Command(
        flows.Commission, "flows.commission:commission", STORE + CLUSTER, flow=True, workers=True
    ),
    "retract": Command(
        flows.Retract, "flows.retract:retract", STORE + DETECTOR + CLUSTER, flow=True
    ),
    "segment": Command(
        flows.Segment, "flows.segment:segment", STORE + CLUSTER, flow=True, workers=True
    ),
    "screen": Command(
        flows.Screen, "flows.screen:screen", STORE + CLUSTER, flow=True, workers=True
    ),
    "nightly": Command(
        flows.Nightly, "flows.nightly:nightly", STORE + CLUSTER, flow=True, workers=True
    ),
    "evaluate": Command(
        flows.Evaluate, "flows.evaluate:evaluate", STORE + CLUSTER, flow=True, workers=True
    ),
    "prune": Command(flows.Prune, "flows.prune:prune", STORE, flow=True),
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
