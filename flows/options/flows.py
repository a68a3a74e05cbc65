"""Define the options of flows and deployments, apart from the flows, whose import takes seconds."""

import datetime
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flows.settings import safe_address

POSITIONAL = "positional"  # marks an option that is given without its name
UNNAMED = "unnamed"  # marks one that may be given without its name
SPELT = "spelt "  # marks one that a person writes otherwise than Python could, e.g. "spelt as"

Attack = Literal["fgsm", "pgd"]
ATTACKS: list[Attack] = list(get_args(Attack))
NONE: list[str] = []
TakenAs = Literal["cells", "fields", "slides"]
SlideIs = Literal["file", "folder"]

SAFE = AfterValidator(safe_address)
SOURCES = "folder, file, glob, archive, manifest; repeat it for several"

# Options that several commands have.
Images = Annotated[str | list[str], UNNAMED, SAFE]  # one source or several
BatchName = Annotated[str, Field(description="name of this batch")]
Model = Annotated[str | None, Field(description="the model; by default the newest")]
Limit = Annotated[int | None, Field(ge=1, description="use at most N images")]
Wait = Annotated[bool, Field(description="wait while another run works on it")]
Force = Annotated[
    bool, Field(description="screen the batch again; its report stays until replaced")
]
As = Annotated[
    TakenAs | None,
    f"{SPELT}as",
    Field(
        description="kind of all sources: pictures of single cells, photographs of fields of "
        "view, or slides; detected by default"
    ),
]
SlideAs = Annotated[
    SlideIs, Field(description="what makes one slide: a file, or the folder of its photographs")
]
Microns = Annotated[
    float | None, Field(gt=0, description="width of a pixel, for slides whose file does not say it")
]
Detector = Annotated[
    str | None,
    Field(
        description="the detector, or its name without a version for the newest; by default the "
        "one of the batch's report, or the newest fitted"
    ),
]


def _come(day: datetime.date | None) -> datetime.date | None:
    if day and day > datetime.date.today() + datetime.timedelta(days=1):  # somewhere it is tomorrow
        raise ValueError(f"{day} lies in the future")
    return day


Day = Annotated[datetime.date | None, AfterValidator(_come)]


class Options(BaseModel):
    """The options of a command; the docstring says what the command does, in one sentence."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_by_name=True
    )


def known_zone(name: str) -> str:
    """Return the name of a time zone; ValueError where no time zone has that name."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not known, a folder, no name
        raise ValueError(f"no time zone {name!r}; they are called like Africa/Kampala") from None
    return name


def named_set(given: str) -> tuple[str, str]:
    """Split GROUP/NAME=URL into the name of a set of images and where it is.

    >>> named_set("near/other-stain=/cells"), named_set("cats=/cats")
    (('near/other-stain', '/cells'), ('other/cats', '/cats'))
    """
    name, sign, url = given.partition("=")
    if not sign or not name or not url:
        raise ValueError(f"{given} is not of the form GROUP/NAME=URL")
    return (name if "/" in name else f"other/{name}"), url


class Train(Options):
    """Train a classifier on labelled images, splitting them by patient."""

    images: Images = Field(description=f"labelled images: {SOURCES}")
    model: str | None = Field(None, description="name of the new model")
    epochs: int = Field(16, ge=1, description="passes over the training images")
    limit: Limit = None
    seed: int = Field(0, ge=0, description="of the split and of the training")
    network: str = Field(
        "efficientnet_lite0",
        description="efficientnet_lite0 (or 1 or 2), timm:<name>, torchvision:<name>, or "
        "module:function of your own that the setting 'networks' names",
    )
    weights: str = Field(
        "imagenet", description="where training starts: imagenet, scratch, or a weights file"
    )
    licence: str | None = Field(
        None, description="under which a weights file is used, for the model's card"
    )
    side: int = Field(96, ge=16, le=1024, description="input size in pixels")
    arithmetic: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="how the network multiplies when it screens: int8 is about twice as fast as "
        "float32 on any processor, bfloat16 where every worker's has it; auto: the fastest here, "
        "and float32 where int8 diagnoses less well",
    )
    taps: list[str] | None = Field(
        None, description="modules to tap, if not the network's usual ones"
    )
    frozen: list[str] | None = Field(None, description="modules to freeze, if not the usual ones")
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="also cross-validate by patient in N folds: figures with intervals, "
        "and a table of every image's diagnosis without its patient, next to the model",
    )


class Fit(Options):
    """Add a labelled batch to a model's class statistics, and calibrate a new detector."""

    images: Images = Field(description=f"labelled images: {SOURCES}")
    batch: BatchName
    model: Model = None
    limit: Limit = None
    wait: Wait = False


class Retract(Options):
    """Take a batch, slide or patient out of the statistics, and calibrate a new detector."""

    batch: str | None = Field(None, description="take out this batch")
    slide: str | None = Field(None, description="take out this slide, in all batches")
    patient: str | None = Field(None, description="take out this patient")
    model: Model = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.batch, self.slide, self.patient).count(None) != 2:
            raise ValueError("say what to take out: one of --batch, --slide and --patient")
        return self


class Segment(Options):
    """Cut photographs and slides into cells, and list these in a manifest."""

    images: Images = Field(description=f"photographs and slides: {SOURCES}")
    name: str = Field(description="name of this segmentation")
    slide_is: SlideAs = "folder"
    microns_per_pixel: Microns = None
    limit: int | None = Field(None, ge=1, description="use at most N sources")
    wait: Wait = False
    finder: str = Field(
        "outlines", description="the finder of cells: outlines, or module:function of your own"
    )


class OfANight(Options):
    """The options that the flows `screen` and `nightly` share."""

    taken_as: As = None
    slide_is: SlideAs = "folder"
    microns_per_pixel: Microns = None
    detector: Detector = None
    wait: Wait = False


def _name_after(images: str | list[str]) -> str:
    from tasks.images.names import batch_name  # not for a help text

    return batch_name(images if isinstance(images, str) else images[0])


class OfABatch(OfANight):
    """The options that the flows `screen` and `commission` share."""

    images: Images = Field(description=f"cells, photographs of fields, and slides: {SOURCES}")
    batch: str = Field(
        "", description="name of this batch; by default that of the images and the day"
    )
    date: Day = Field(None, description="the batch's day; by default today")
    limit: Limit = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("batch") or not given.get("images"):
            return given
        day = given.get("date") or datetime.date.today()
        return given | {"batch": f"{_name_after(given['images'])}-{day}"}


class Screen(OfABatch):
    """Diagnose and score a batch of cells, photographs or slides, and publish the report."""

    force: Force = False


class CallAgain(Options):
    """Judge the slides and patients of a screened batch again, and make its page again."""

    batch: Annotated[str, UNNAMED] = Field(description="name of the screened batch")
    page_only: bool = Field(
        False, description="keep the calls, and make the page again with what persons have answered"
    )
    wait: Wait = False


class Commission(OfABatch):
    """Learn a laboratory's own normal from a batch, screen it there, and say what is missing."""

    detector: str | None = Field(
        None, description="the fitted detector; by default the laboratory's, or the newest"
    )
    laboratory: str | None = Field(
        None,
        description="its name, by default that of the images; its batches add up, and its "
        "detectors are called <name>-v0001, <name>-v0002 ...",
    )
    negative: str | list[str] = Field(
        NONE,
        description="a slide or patient of this batch known to have no parasites; "
        "repeat it, or say all or none: they show how often cells are wrongly called here",
    )

    @property
    def name(self) -> str:
        """Return the name of the laboratory."""
        return self.laboratory or _name_after(self.images)

    def screening(self, detector: str | None) -> Screen:
        """Return the options that screen the same batch with a detector."""
        shared = OfABatch.model_fields.keys() - {"detector"}
        return Screen(detector=detector, **{each: getattr(self, each) for each in shared})


class Unlearn(Options):
    """Take a batch out of a commissioned laboratory, and calibrate it again."""

    batch: str = Field(description="take out this batch")
    laboratory: str = Field(description="the laboratory that has learned it")


class Nightly(OfANight):
    """Screen the new images of an inbox, and publish the night's report."""

    inbox: Annotated[str, SAFE] = Field(description="where images arrive: a folder or a pattern")
    series: str = Field(
        "night", description="name of the series; a batch is called <series>-<date>"
    )
    timezone: Annotated[str, AfterValidator(known_zone)] = Field(
        "UTC", description="time zone of the date of a night"
    )
    date: Day = Field(
        None, description="a night that began before; by default that of the scheduled start"
    )
    settle: float = Field(60.0, ge=0, description="skip files modified in the last X seconds")
    force: Force = False


class Evaluate(Options):
    """Compare a detector with others on other images, corruptions and attacks."""

    images: Images = Field(
        description=f"labelled images, of which those of unseen patients count: {SOURCES}"
    )
    detector: str | None = Field(None, description="the detector, by default the newest fitted")
    ood: Annotated[
        list[str],
        AfterValidator(lambda given: [each for each in given if safe_address(named_set(each)[1])]),
    ] = Field(
        NONE,
        description="other images, GROUP/NAME=URL; groups: near, far, and healthy, whose cells "
        "are ordinary for their slides; repeat it",
    )
    attacks: list[Attack] = Field(ATTACKS, description="attacks, by default all; repeat it")
    attacked: int = Field(500, ge=1, description="images to attack and to corrupt")
    limit: int | None = Field(None, ge=1, description="use at most N of --images")
    name: str | None = Field(None, description="name of the evaluation")


class Prune(Options):
    """List features and reports that are old enough to go, and with --apply remove them."""

    features: int = Field(
        30, ge=1, description="days after its report for which a batch's features are kept"
    )
    reports: int | None = Field(
        None, ge=1, description="days for which reports and pages are kept; by default for ever"
    )
    apply: bool = Field(False, description="remove it; otherwise it is only listed")
    today: datetime.date | None = Field(
        None,
        description="confirm the date of this machine's clock, where nothing was written to "
        "the store for long: otherwise nothing is removed then",
    )
