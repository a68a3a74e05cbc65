"""Run the flow `segment`: photographs and slides -> a manifest of cells to screen."""

import time

from flows.monitoring import telemetry
from flows.options.flows import Segment
from flows.outcome import Outcome, numbered, shell_command, table
from flows.prefect.decorators import flow
from flows.prefect.runs import in_deployment
from flows.settings import Settings
from flows.smears.stages.segmentation import cells_of_fields, cut_up
from storage.smears.segmentations import CutUp, manifest_address, read_segmented
from storage.store import Store
from tasks.images.listing import as_given
from tasks.smears.segmentation.finders import OUTLINES
from tasks.types import FieldKind


class SegmentOutcome(Outcome):
    """The figures and the address of a manifest of images that were cut out of larger ones."""

    name: str
    manifest: str
    sources: int
    fields: dict[str, int]
    images: int
    failures: dict[str, int]
    seconds: float
    repeated: bool

    @property
    def problem(self) -> str:
        """Say what could not be read, or that there are no sources."""
        if not self.sources:
            return f"there is nothing to segment for {self.name}: it has no photographs or slides"
        if not self.failures:
            return ""
        failures = numbered(self.failures)
        return (
            f"{sum(self.failures.values()):,} sources or fields of segmentation {self.name} failed "
            f"({failures}); the manifest has a row for each: {self.manifest}"
        )

    def _text(self) -> str:
        kinds = self.fields.items()
        fields = ", ".join(f"{n:,}" + f" {kind}" * (kind != FieldKind.FIELD) for kind, n in kinds)
        rows: list[tuple[str, object]] = [
            ("sources", f"{self.sources:,}"),
            ("fields", fields or "none"),
            ("images", f"{self.images:,}"),
            ("manifest", self.manifest),
            ("screen it", shell_command("screen", "--images", self.manifest, "--batch", self.name)),
        ]
        if self.failures:
            failures = numbered(self.failures)
            rows.insert(
                2, ("failed", f"{failures}; the manifest has a row with the reason for each")
            )
        if self.repeated:
            return f"segmentation {self.name} was made before; nothing to do\n{table(rows)}"
        rate = sum(self.fields.values()) / self.seconds
        return f"segmentation {self.name}: {self.seconds:.1f} s, {rate:.1f} fields/s\n{table(rows)}"


class FinderError(Exception):
    """A deployment names a finder that this machine's owner has not allowed."""


def _refuse_foreign_code(finder: str) -> None:
    """Raise FinderError where the parameters of a deployment name code that is not allowed here.

    Whoever may start a deployment must not choose what the worker imports. The settings that count
    are the worker's own, and none that come along with the parameters.
    """
    allowed = [OUTLINES, *Settings().finders]
    if in_deployment() and finder not in allowed:
        raise FinderError(
            f"the finder {finder} is not among those that deployments may name here "
            f"({', '.join(allowed)}): add it to 'finders' in the settings of this machine's worker"
        )


@flow(flow_run_name="segment {options.name}")
@telemetry.observed()
def segment(options: Segment, settings: Settings) -> SegmentOutcome:
    """Cut sources up; those that cannot be read have a row in the manifest that says why."""
    _refuse_foreign_code(options.finder)
    cutting = cells_of_fields(settings, options.microns_per_pixel, options.finder)
    started = time.monotonic()
    store = Store(settings.store)
    repeated = read_segmented(store, options.name) is not None
    made = cut_up(
        settings,
        options.name,
        CutUp(
            images=as_given(options.images),
            limit=options.limit,
            slide_is=options.slide_is,
            cutting=cutting,
        ),
        root=options.images,
        wait=options.wait,
    )
    return SegmentOutcome(
        name=options.name,
        manifest=manifest_address(store, options.name),
        **made.model_dump(include={"sources", "fields", "images", "failures"}),
        seconds=time.monotonic() - started,
        repeated=repeated,
    )
