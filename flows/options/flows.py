"""Define the options of the flows, which are the parameters of Prefect deployments too."""

import datetime
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from flows.options.described import SPELT, Options, named_source, without_secret

Images = str | list[str]  # one source or several
Attack = Literal["fgsm", "bim", "pgd", "deepfool", "carlini-wagner", "adaptive-filters", "adaptive"]
ATTACKS: list[Attack] = list(get_args(Attack))
NO_SETS: list[str] = []
NONE_SAID: list[str] = []
PLANTED: list[float] = [0.1]
MAGNITUDES = [0.0014]
Into = Literal["cells", "tiles"]
SlideIs = Literal["file", "folder"]
TakenAs = Literal["cells", "fields", "slides"]

SAFE = AfterValidator(named_source)
SOURCES = "folder, file, glob, archive, manifest; repeat it for several"
DETECTOR_AT = "the detector; by default that of the site, or the newest"
SITE = "the laboratory, as it was commissioned: its slides are expected to be like its own"
OWN_SITE = (
    "the laboratory, as it was commissioned, by whose normal slides are judged beside their own; "
    "of the first seed only, and the images of its nights are left out of the nights"
)
LEARN = "let accepted cells of this night join the site, unless it drifts; needs --site"
ONLY_SO_MANY = "take only so many images"
MICRONS = "of slides whose file does not say"
TAKEN_AS = (
    "what all of them are: pictures of single cells, photographs of fields of view, or slides; by "
    "default slidewatch looks"
)
ONE_SLIDE = "what one slide is: a file, or the folder of its photographs"


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
    name, found, url = given.partition("=")
    if not found or not name or not url:
        raise ValueError(f"{given} is not of the form GROUP/NAME=URL")
    return (name if "/" in name else f"other/{name}"), url


def _known_form(given: list[str]) -> list[str]:
    for each in given:
        without_secret(named_set(each)[1])
    return given


def _shares(given: list[float]) -> list[float]:
    for share in given:
        if not 0 < share < 1:
            raise ValueError(f"a share of a slide is more than 0 and less than 1, not {share:g}")
    return given


class Train(Options):
    """Train a classifier on labelled images, splitting them by patient."""

    images: Annotated[Images, SAFE, Field(description=f"labelled images: {SOURCES}")]
    model: Annotated[str | None, Field(description="name of the new model")] = None
    epochs: Annotated[int, Field(ge=1, description="passes over the training images")] = 8
    limit: Annotated[int | None, Field(ge=1, description=ONLY_SO_MANY)] = None
    seed: Annotated[int, Field(ge=0, description="of the split and of the training")] = 0
    network: Annotated[
        str,
        Field(
            description="efficientnet_lite0, timm:<name>, torchvision:<name>, or module:function "
            "of your own that the setting 'networks' names"
        ),
    ] = "efficientnet_lite0"
    weights: Annotated[
        str, Field(description="where training starts: imagenet, scratch, or a weights file")
    ] = "imagenet"
    licence: Annotated[
        str | None, Field(description="under which a weights file is used, for the model's card")
    ] = None
    side: Annotated[int, Field(ge=16, le=1024, description="input size in pixels")] = 96
    rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 1e-3
    fractions: Annotated[
        tuple[float, float, float],
        Field(description="shares of patients for training, validation and test"),
    ] = (0.75, 0.10, 0.15)
    arithmetic: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(
            description="how the network multiplies when it screens: in bfloat16 it is twice as "
            "fast, and every worker's processor must have it; auto: bfloat16 where this one has it"
        ),
    ] = "auto"
    taps: Annotated[
        list[str] | None, Field(description="modules to tap, if not the network's usual ones")
    ] = None
    frozen: Annotated[
        list[str] | None, Field(description="modules to freeze, if not the usual ones")
    ] = None
    folds: Annotated[
        int | None,
        Field(
            ge=2,
            le=20,
            description="also cross-validate by patient in so many folds: figures with intervals, "
            "and a table of every image's diagnosis without its patient, beside the model",
        ),
    ] = None


class Fit(Options):
    """Add a labelled batch to a model's class statistics, and calibrate a new detector."""

    images: Annotated[Images, SAFE, Field(description=f"labelled images: {SOURCES}")]
    batch: Annotated[str, Field(description="name of this batch")]
    model: Annotated[str | None, Field(description="the model; by default the newest")] = None
    limit: Annotated[int | None, Field(ge=1, description=ONLY_SO_MANY)] = None
    wait: Annotated[bool, Field(description="wait while another run works on the batch")] = False


class Retract(Options):
    """Take a batch, slide or patient out of the statistics, a night out of a site, or a site."""

    batch: Annotated[str | None, Field(description="take out this batch")] = None
    slide: Annotated[str | None, Field(description="take out this slide, in all batches")] = None
    patient: Annotated[str | None, Field(description="take out this patient")] = None
    model: Annotated[str | None, Field(description="the model; by default the newest")] = None
    site: Annotated[
        str | None,
        Field(description="take out this site, which was imported; or one of its nights"),
    ] = None
    site_night: Annotated[
        str | None, Field(description="a night of the site, which otherwise stays, by its batch")
    ] = None

    @model_validator(mode="after")
    def _one(self) -> "Retract":
        given = 3 - (self.batch, self.slide, self.patient).count(None)
        if self.site_night is not None and self.site is None:
            raise ValueError("--site-night needs the --site that it is a night of")
        if given != (self.site is None):
            raise ValueError("say what to take out: one of --batch, --slide, --patient and --site")
        return self


class Commission(Options):
    """Learn a laboratory's own normal from a night, and report what may be believed there."""

    images: Annotated[
        Images, SAFE, Field(description=f"a night's images, labelled or not: {SOURCES}")
    ]
    site: Annotated[str, Field(description="name of the laboratory; its nights add up")]
    batch: Annotated[
        str | None, Field(description="name of this night; by default made of site and images")
    ] = None
    negative: Annotated[
        Images,
        Field(
            description="a slide or patient of this night that is known to have no parasites; "
            "repeat it, or say all or none: they tell how often cells are called wrongly here"
        ),
    ] = NONE_SAID
    detector: Annotated[str | None, Field(description=DETECTOR_AT)] = None
    limit: Annotated[int | None, Field(ge=1, description=ONLY_SO_MANY)] = None
    wait: Annotated[bool, Field(description="wait while another run works on the batch")] = False


class Segment(Options):
    """Cut photographs and slides into cells or tiles, and list these in a manifest."""

    images: Annotated[Images, SAFE, Field(description=f"photographs and slides: {SOURCES}")]
    name: Annotated[str, Field(description="name of this segmentation")]
    into: Annotated[Into, Field(description="cells, found in each field; or a grid of tiles")] = (
        "cells"
    )
    slide_is: Annotated[SlideIs, Field(description=ONE_SLIDE)] = "file"
    microns_per_pixel: Annotated[float | None, Field(gt=0, description=MICRONS)] = None
    limit: Annotated[int | None, Field(ge=1, description="take only so many sources")] = None
    wait: Annotated[bool, Field(description="wait while another run works on the segmentation")] = (
        False
    )
    tile: Annotated[int, Field(ge=16, le=8192, description="side of a tile in pixels")] = 256
    overlap: Annotated[int, Field(ge=0, description="of neighbouring tiles in pixels")] = 0
    finder: Annotated[
        str, Field(description="what finds cells: outlines, or module:function of your own")
    ] = "outlines"

    @model_validator(mode="after")
    def _less(self) -> "Segment":
        if self.overlap >= self.tile:
            raise ValueError(f"--overlap {self.overlap} must be less than --tile {self.tile}")
        return self


class Screen(Options):
    """Diagnose and score a night's cells, photographs or slides, and publish the report."""

    images: Annotated[
        Images,
        SAFE,
        Field(description=f"the night's cells, photographs of fields, and slides: {SOURCES}"),
    ]
    batch: Annotated[str, Field(description="name of this batch")]
    taken_as: Annotated[TakenAs | None, f"{SPELT}as", Field(description=TAKEN_AS)] = None
    slide_is: Annotated[SlideIs, Field(description=ONE_SLIDE)] = "file"
    microns_per_pixel: Annotated[float | None, Field(gt=0, description=MICRONS)] = None
    detector: Annotated[str | None, Field(description=DETECTOR_AT)] = None
    site: Annotated[str | None, Field(description=SITE)] = None
    learn: Annotated[bool, Field(description=LEARN)] = False
    date: Annotated[
        datetime.date | None, Field(description="the batch's day; by default today")
    ] = None
    limit: Annotated[int | None, Field(ge=1, description=ONLY_SO_MANY)] = None
    force: Annotated[
        bool, Field(description="start the batch anew; its report stays until replaced")
    ] = False
    wait: Annotated[bool, Field(description="wait while another run works on the batch")] = False

    @model_validator(mode="after")
    def _somewhere(self) -> "Screen":
        if self.learn and self.site is None:
            raise ValueError("--learn needs the --site that learns")
        return self


class Nightly(Options):
    """Screen the new images of an inbox, and publish the night's report."""

    inbox: Annotated[str, SAFE, Field(description="where images arrive: a folder or a pattern")]
    series: Annotated[
        str, Field(description="name of these nights; a batch is called <series>-<date>")
    ] = "night"
    timezone: Annotated[
        str, AfterValidator(known_zone), Field(description="whose date a night has")
    ] = "UTC"
    detector: Annotated[str | None, Field(description=DETECTOR_AT)] = None
    site: Annotated[str | None, Field(description=SITE)] = None
    learn: Annotated[bool, Field(description=LEARN)] = False
    date: Annotated[
        datetime.date | None,
        Field(description="a night that began before; by default that of the scheduled start"),
    ] = None
    settle: Annotated[
        float, Field(ge=0, description="leave alone what was modified in the last so many seconds")
    ] = 60.0
    wait: Annotated[bool, Field(description="wait while another run works on the night")] = False
    taken_as: Annotated[TakenAs | None, f"{SPELT}as", Field(description=TAKEN_AS)] = None
    slide_is: Annotated[SlideIs, Field(description=ONE_SLIDE)] = "file"
    microns_per_pixel: Annotated[float | None, Field(gt=0, description=MICRONS)] = None

    @model_validator(mode="after")
    def _somewhere(self) -> "Nightly":
        if self.learn and self.site is None:
            raise ValueError("--learn needs the --site that learns")
        return self


class Evaluate(Options):
    """Try a detector on other images, corruptions and attacks, beside other detectors."""

    images: Annotated[
        Images,
        SAFE,
        Field(description=f"labelled images, of which those of unseen patients count: {SOURCES}"),
    ]
    detector: Annotated[str | None, Field(description=DETECTOR_AT)] = None
    site: Annotated[str | None, Field(description=OWN_SITE)] = None
    ood: Annotated[
        list[str],
        AfterValidator(_known_form),
        Field(
            description="other images, GROUP/NAME=URL; groups: near, far, and healthy, whose cells "
            "are ordinary for their slides; repeat it"
        ),
    ] = NO_SETS
    planted: Annotated[
        list[float],
        AfterValidator(_shares),
        Field(description="shares of each slide that abnormal cells are planted as"),
    ] = PLANTED
    slides: Annotated[
        bool,
        Field(
            description="compose slides of known parasitaemia from cells of unseen patients, and "
            "judge how they are counted and called"
        ),
    ] = False
    attacks: Annotated[
        list[Attack], Field(description="attacks, by default all; repeat it or use commas")
    ] = ATTACKS
    attacked: Annotated[int, Field(ge=1, description="images to attack and to corrupt")] = 500
    limit: Annotated[int | None, Field(ge=1, description="take only so many of --images")] = None
    name: Annotated[str | None, Field(description="name of the evaluation")] = None
    seeds: Annotated[
        int, Field(ge=1, description="repeat with so many models, trained with other seeds")
    ] = 1
    magnitudes: Annotated[
        list[float], Field(description="of input pre-processing, in pixel units")
    ] = MAGNITUDES
    save_attacks: Annotated[bool, Field(description="keep every attacked image as a PNG")] = False


class Prune(Options):
    """List features and reports that are old enough to go, and with --apply remove them."""

    features: Annotated[
        int, Field(ge=1, description="days after its report for which a batch's features are kept")
    ] = 30
    reports: Annotated[
        int | None,
        Field(ge=1, description="days for which reports and pages are kept; by default for ever"),
    ] = None
    apply: Annotated[bool, Field(description="remove it; otherwise it is only listed")] = False
    today: Annotated[
        datetime.date | None,
        Field(
            description="confirm the date of this machine's clock, where nothing was written to "
            "the store for long: otherwise nothing is removed then"
        ),
    ] = None
