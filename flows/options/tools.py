"""Define the options of the commands that run no flow."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flows.options.flows import POSITIONAL, SAFE, SPELT, As, Detector, Microns, Options

Format = Literal["table", "csv"]

# Options that several commands have.
Screened = Annotated[str, Field(description="the screened batch")]
PerSlide = Annotated[int, Field(ge=1, description="and at most N of one slide")]
Force = Annotated[bool, Field(description="replace files that are there already")]

LIMIT, PER_SLIDE = 100, 10
UNMARKED = 0.25


class Look(Options):
    """Screen one photograph, slide or cell by itself, and open its page."""

    photo: Annotated[str, POSITIONAL, SAFE, Field(description="photograph, slide or cell")]
    to: Annotated[
        str | None, Field(description="file of the page; by default among the temporary files")
    ] = None
    force: Force = False
    browser: Annotated[bool, Field(description="open the page in a browser")] = True
    taken_as: As = None
    microns_per_pixel: Microns = None
    detector: Detector = None


class Status(Options):
    """List the detectors and batches of a store."""


class Verify(Options):
    """Compare everything in a store with its digests, and name damaged files."""

    batch: Annotated[
        str | None, Field(description="only this batch and its reports; by default everything")
    ] = None


class Query(Options):
    """Ask all batches in SQL; `slidewatch schema` lists the tables and their columns."""

    sql: Annotated[
        str,
        POSITIONAL,
        Field(description="a query over the tables of slidewatch schema"),
    ]
    format: Annotated[
        Format, Field(description="a table to read, or CSV in which no text is a formula")
    ] = "table"
    seconds: Annotated[
        float, Field(gt=0, le=86400, description="give up a query that takes longer")
    ] = 300.0


class Schema(Options):
    """List the columns of the tables, with their types, units and meanings."""

    table: Annotated[
        str | None, POSITIONAL, Field(description="only this table; by default all of them")
    ] = None


class Contours(Options):
    """Write the contours of a batch's cells as GeoJSON, a file for each photograph or slide."""

    batch: Screened
    to: Annotated[str, Field(description="folder for the files")]
    force: Force = False


class PatientSheet(Options):
    """Print the call of one patient; with --to write a page with slides and cells, or a table."""

    name: Annotated[str, POSITIONAL, Field(description="the patient, or the slide of one unnamed")]
    batch: Annotated[
        str | None, Field(description="the screened batch; by default the patient's newest")
    ] = None
    to: Annotated[str | None, Field(description="a file to write: .html to print, or .csv")] = None
    force: Force = False


class ReviewExport(Options):
    """Write cells for review, or labels that may be wrong, as a sheet with pictures."""

    to: Annotated[str, Field(description="folder for the sheet and the images")]
    batch: Annotated[
        str | None, Field(description="the screened batch: its slides too, most abnormal first")
    ] = None
    model: Annotated[
        str | None,
        Field(description="or a model trained with --folds: its labels, the least probable first"),
    ] = None
    limit: Annotated[int, Field(ge=1, description="export at most N cells")] = LIMIT
    per_slide: PerSlide = PER_SLIDE
    force: Force = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.batch is None) == (self.model is None):
            raise ValueError("say what to export: one of --batch and --model")
        return self


class ReviewServe(Options):
    """Serve pages on which persons read a batch's cells, until Ctrl-C; every answer is kept."""

    batch: Annotated[str | None, Field(description="the screened batch; by default the newest")] = (
        None
    )
    port: Annotated[int, Field(ge=1024, le=65535, description="of 127.0.0.1")] = 8077
    reader: Annotated[
        str | None, Field(description="who reads; by default the page asks for the name")
    ] = None
    blind: Annotated[
        bool, Field(description="hide diagnosis and scores until the reader has answered")
    ] = True
    unmarked: Annotated[
        float,
        Field(ge=0, le=0.9, description="share of cells that were not flagged, mixed in unmarked"),
    ] = UNMARKED
    limit: Annotated[int, Field(ge=1, description="flagged cells at most")] = LIMIT
    per_slide: PerSlide = PER_SLIDE


class ReviewImport(Options):
    """Keep a person's answers in the store, all or none, and list the commands that fit them."""

    file: Annotated[str, POSITIONAL, Field(description="the sheet with its answers")]
    dry_run: Annotated[bool, Field(description="say what would change, and change nothing")] = False


class ReviewApply(Options):
    """Write images as a manifest with answers as labels, to commission or train."""

    to: Annotated[str, Field(description="the manifest to write, a .parquet file")]
    sheet: Annotated[
        str | None, POSITIONAL, Field(description="a sheet of a model's labels, with its answers")
    ] = None
    batch: Annotated[
        str | None, Field(description="or the reviewed batch, whose answers were imported")
    ] = None
    dry_run: Annotated[bool, Field(description="say what would be in it, and write nothing")] = (
        False
    )
    force: Force = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.sheet is None) == (self.batch is None):
            raise ValueError("give a sheet of labels, or --batch")
        return self


class ReviewReport(Options):
    """Report how many abnormal cells of a batch were worth a look, and how far readers agree."""

    batch: Annotated[str, Field(description="the reviewed batch")]


class Doctor(Options):
    """Check this machine, the store and the cluster; list all settings and where they come from."""


class Demo(Options):
    """Render cells, train, fit in two increments, screen a batch with planted images, query."""

    folder: Annotated[str, Field(description="where the demo's images and store go")] = "demo"


class Malaria(Options):
    """Fetch the National Library of Medicine's malaria cell images, or verify them."""

    to: Annotated[str, Field(description="folder to keep the archive in")]
    from_file: Annotated[
        str | None, f"{SPELT}from", Field(description="take the archive from this file instead")
    ] = None
