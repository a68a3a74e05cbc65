"""List every command by name: its options, the settings that it uses, and its function."""

from dataclasses import dataclass

from flows.options import flows, tools
from flows.options.taking import Options

# Settings by what they are about, in the order in which help shows them.
STORE = ("store",)
READ = ("read_seconds",)
BATCH = ("shard_rows", *READ)
DETECTOR = ("alpha", "uncertain_below", "counting_cells")
REPORT = (
    "field_limits", "detectable_percent", "negative_percent", "red_cells_per_microlitre", "metrics",
    "pages_url",
)  # fmt: skip
FIELDS = ("field_limits.least_sharpness", "field_limits.most_packed")
CLUSTER = (
    "cluster", "workers", "scheduler", "tls_ca", "tls_certificate", "tls_key", "unencrypted",
    "cluster_spec", "first_worker",
)  # fmt: skip
TOLD = ("quiet", "debug", "logs")  # every command has these
GROUPS = {
    "store": STORE,
    "cluster": CLUSTER,
    "batch": BATCH,
    "detector": DETECTOR,
    "report": REPORT,
}
# Options and settings whose defaults are right for nearly everybody: help shows them last.
SELDOM = frozenset(
    ("side", "taps", "frozen", "licence", "seed", "tile", "overlap", "finder", "planted",
     "attacked", "save_attacks", "today", "per_slide", "unmarked", "shard_rows", "read_seconds",
     "first_worker", "unencrypted", "uncertain_below", "counting_cells", "detectable_percent",
     "field_limits", "red_cells_per_microlitre", "pages_url")
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command: its options, the place of its function, and the settings that this uses.

    ``flow`` tells a flow of Prefect, ``workers`` what starts processes on this machine for Dask.
    """

    options: type[Options]
    function: str
    settings: tuple[str, ...] = ()
    flow: bool = False
    workers: bool = False

    @property
    def summary(self) -> str:
        """Return the one sentence that help shows."""
        return (self.options.__doc__ or "").strip()


COMMANDS = {
    "train": Command(flows.Train, "flows.train:train", STORE + READ, flow=True),
    "fit": Command(
        flows.Fit, "flows.fit:fit", STORE + BATCH + DETECTOR + CLUSTER, flow=True, workers=True
    ),
    "commission": Command(
        flows.Commission, "flows.commission:commission", STORE + BATCH + CLUSTER,
        flow=True, workers=True,
    ),
    "retract": Command(
        flows.Retract, "flows.fit:retract", STORE + DETECTOR + CLUSTER, flow=True
    ),
    "segment": Command(
        flows.Segment, "flows.segment:segment", STORE + READ + FIELDS + CLUSTER,
        flow=True, workers=True,
    ),
    "screen": Command(
        flows.Screen, "flows.screen:screen", STORE + BATCH + REPORT + CLUSTER,
        flow=True, workers=True,
    ),
    "nightly": Command(
        flows.Nightly, "flows.nightly:nightly", STORE + BATCH + REPORT + CLUSTER,
        flow=True, workers=True,
    ),
    "evaluate": Command(
        flows.Evaluate, "flows.evaluate:evaluate", STORE + BATCH + CLUSTER,
        flow=True, workers=True,
    ),
    "prune": Command(flows.Prune, "flows.prune:prune", STORE, flow=True),
    "look": Command(
        tools.Look, "flows.commands.look:look", STORE + BATCH + REPORT + CLUSTER,
        flow=True, workers=True,
    ),
    "status": Command(tools.Status, "flows.commands.status:status", STORE),
    "verify": Command(tools.Verify, "flows.commands.status:verify", STORE),
    "query": Command(tools.Query, "flows.commands.query:query", STORE),
    "schema": Command(tools.Schema, "flows.commands.query:schema"),
    "contours": Command(tools.Contours, "flows.commands.exports.qupath:contours", STORE + READ),
    "patient": Command(
        tools.PatientSheet,
        "flows.commands.exports.patient_sheet:patient",
        (*STORE, "negative_percent"),
    ),
    "review export": Command(tools.ReviewExport, "flows.commands.review.queue:export", STORE),
    "review serve": Command(
        tools.ReviewServe, "flows.commands.review.serve:serve",
        (*STORE, *READ, "negative_percent"),
    ),
    "review import": Command(
        tools.ReviewImport, "flows.commands.review.queue:import_verdicts", STORE
    ),
    "review apply": Command(tools.ReviewApply, "flows.commands.review.apply:apply", STORE),
    "review report": Command(
        tools.ReviewReport, "flows.commands.review.queue:report", (*STORE, "negative_percent")
    ),
    "labels export": Command(
        tools.LabelsExport, "flows.commands.review.doubted_labels:export", STORE + READ
    ),
    "labels apply": Command(
        tools.LabelsApply, "flows.commands.review.doubted_labels:apply", STORE + READ
    ),
    "site export": Command(tools.SiteExport, "flows.federation:export", STORE),
    "site import": Command(
        tools.SiteImport, "flows.federation:import_file", STORE + DETECTOR + CLUSTER, workers=True
    ),
    "doctor": Command(tools.Doctor, "flows.commands.doctor:doctor", STORE + CLUSTER),
    "config": Command(
        tools.Config, "flows.commands.config:config",
        STORE + BATCH + DETECTOR + REPORT + CLUSTER,
    ),
    "certificates": Command(tools.Certificates, "flows.commands.certificates:certificates"),
    "completion": Command(tools.Completion, "flows.commands.config:completion"),
    "demo": Command(tools.Demo, "flows.commands.demo:demo", CLUSTER),
    "data malaria": Command(tools.Malaria, "flows.commands.malaria_data:malaria"),
}  # fmt: skip
