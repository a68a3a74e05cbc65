"""Define the options of the commands that run no flow."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flows.options.flows import POSITIONAL, SAFE, As, Detector, Microns, Options

Format = Literal["table", "csv"]

# Options that several commands have.
Screened = Annotated[str | None, Field(description="the screened batch; by default the newest")]
PerSlide = Annotated[int, Field(ge=1, description="and at most N of one slide")]
Force = Annotated[bool, Field(description="replace files that are there already")]

LIMIT, PER_SLIDE, UNMARKED = 100, 10, 0.25


class Look(Options):
    """Screen one photograph, slide or cell by itself, and open its page."""

    photo: Annotated[str, POSITIONAL, SAFE] = Field(description="photograph, slide or cell")
    to: str | None = Field(None, description="file of the page; by default a temporary one")
    force: Force = False
    browser: bool = Field(True, description="open the page in a browser")
    taken_as: As = None
    microns_per_pixel: Microns = None
    detector: Detector = None


class Status(Options):
    """List the detectors and batches of a store."""


class Verify(Options):
    """Compare everything in a store with its digests, and name damaged files."""

    batch: str | None = Field(None, description="only this batch and its reports")


class Query(Options):
    """Ask all batches in SQL; `slidewatch schema` lists the tables and their columns."""

    sql: Annotated[str, POSITIONAL] = Field(
        description="a query over the tables of slidewatch schema"
    )
    format: Format = Field(
        "table", description="a table to read, or CSV in which no text is a formula"
    )
    seconds: float = Field(300.0, gt=0, le=86400, description="give up a query that takes longer")


class Schema(Options):
    """List the columns of the tables, with their types, units and meanings."""

    table: Annotated[str | None, POSITIONAL] = Field(None, description="only this table")


class Contours(Options):
    """Write the contours of a batch's cells as GeoJSON, a file for each photograph or slide."""

    batch: Screened = None
    to: str = Field(description="folder for the files")
    force: Force = False


class PatientSheet(Options):
    """Print the call of one patient; with --to write a page with slides and cells, or a table."""

    name: Annotated[str, POSITIONAL] = Field(description="the patient, or the slide of one unnamed")
    batch: str | None = Field(None, description="the batch; by default the patient's newest")
    to: str | None = Field(None, description="a file to write: .html to print, or .csv")
    force: Force = False


class Export(Options):
    """Write the answers on a batch's patients for surveillance, as CSV or as FHIR R5."""

    batch: Screened = None
    to: str = Field(description="a file to write: .csv, or .json for FHIR")
    force: Force = False


class ReviewExport(Options):
    """Write cells for review, or labels that may be wrong, as a sheet with pictures."""

    to: str = Field(description="folder for the sheet and the images")
    batch: str | None = Field(
        None, description="the screened batch, by default the newest: most abnormal first"
    )
    model: str | None = Field(
        None, description="or a model trained with --folds: its labels, the least probable first"
    )
    limit: int = Field(LIMIT, ge=1, description="export at most N cells")
    per_slide: PerSlide = PER_SLIDE
    force: Force = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.batch is not None and self.model is not None:
            raise ValueError("say what to export: --batch or --model, not both")
        return self


class ReviewServe(Options):
    """Serve pages on which persons read a batch's cells, until Ctrl-C; every answer is kept."""

    batch: Screened = None
    port: int = Field(8077, ge=1024, le=65535, description="of 127.0.0.1")
    reader: str | None = Field(None, description="who reads; by default the page asks for the name")
    blind: bool = Field(True, description="hide diagnosis and scores until the reader has answered")
    unmarked: float = Field(
        UNMARKED, ge=0, le=0.9, description="share of cells that were not flagged, mixed in"
    )
    limit: int = Field(LIMIT, ge=1, description="flagged cells at most")
    per_slide: PerSlide = PER_SLIDE


class ReviewImport(Options):
    """Keep a person's answers in the store, all or none, and list the commands that fit them."""

    file: Annotated[str, POSITIONAL] = Field(description="the sheet with its answers")
    dry_run: bool = Field(False, description="say what would change, and change nothing")


class ReviewApply(Options):
    """Write images as a manifest with answers as labels, to commission or train."""

    to: str = Field(description="the manifest to write, a .parquet file")
    sheet: Annotated[str | None, POSITIONAL] = Field(
        None, description="a sheet of a model's labels, with its answers"
    )
    batch: str | None = Field(
        None, description="or the reviewed batch, whose answers were imported"
    )
    dry_run: bool = Field(False, description="say what would be in it, and write nothing")
    force: Force = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.sheet is None) == (self.batch is None):
            raise ValueError("give a sheet of labels, or --batch")
        return self


class ReviewReport(Options):
    """Report how many abnormal cells of a batch were worth a look, and how far readers agree."""

    batch: Screened = None


class Doctor(Options):
    """Check this machine, the store and the cluster; list all settings and where they come from."""


class Demo(Options):
    """Render cells, train, fit in two increments, screen a batch with planted images, query."""

    folder: str = Field("demo", description="where the demo's images and store go")
