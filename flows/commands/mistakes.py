"""Find mistakes in a flow's options before a server or a worker is started for it."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from flows.cluster.requirements import refuse_incomplete
from flows.options import flows, tools
from flows.options.commands import Command
from flows.options.flows import named_set
from flows.options.taking import Options
from flows.settings import Settings
from storage.batches.manifests import find_batch
from storage.batches.nights import find_night
from storage.batches.segmentations import find_segmentation
from storage.models.classifiers import find_card, refuse_existing
from storage.models.detectors import load_detector_card
from storage.models.laboratories import detector_at, load_laboratory
from storage.store import Store, StoreError, check_name, refuse_absent
from tasks.images.listing import refuse_missing

Values = dict[str, Any]


def refuse_mistakes(command: Command, values: Values, settings: Settings) -> None:
    """Raise early the errors that a flow would raise about its options.

    Skip batches that will resume: their image list is frozen and the files may be gone.

    Raises:
        SourceError: images do not exist.
        StoreError: a model, detector or batch does not exist, or a name is taken.
        ClusterError: the settings do not say how the cluster is reached.
    """
    if "cluster" in command.settings:
        refuse_incomplete(settings)
    for check in CHECKS.get(command.options, ()):
        check(Store(settings.store), values)


def _told_later(text: str) -> None:
    """Ignore a damaged older record; the flow itself warns of it."""


def _images(store: Store, values: Values) -> None:
    """Refuse images that do not exist, or that are not those the batch was started with."""
    anew = values.get("force") or values["batch"] is None
    batch = None if anew else find_batch(store, values["batch"])
    if batch is None:
        refuse_missing(values["images"])
        return
    from flows.stages.batch import refuse_other_images  # the flow needs it, and all that it imports

    refuse_other_images(store, batch, values["images"], values["limit"])


def _train(store: Store, values: Values) -> None:
    if values["model"] is not None:
        refuse_existing(store, values["model"])
    refuse_missing(values["images"])
    weights = values["weights"]
    if weights not in {"imagenet", "scratch"} and not Path(weights).is_file():
        raise StoreError(f"--weights {weights}: give imagenet, scratch, or a file of weights")


def _model(store: Store, values: Values) -> None:
    find_card(store, values["model"], _told_later)


def _detector(store: Store, values: Values) -> None:
    detector_at(store, values["detector"], values["laboratory"], _told_later)


def _retract(store: Store, values: Values) -> None:
    if values["laboratory"] is not None:
        load_laboratory(store, values["laboratory"])
    else:
        _model(store, values)


def _segment(store: Store, values: Values) -> None:
    if find_segmentation(store, values["name"]) is None:
        refuse_missing(values["images"])


def _laboratory(store: Store, values: Values) -> None:
    check_name("laboratory", values["laboratory"])
    load_detector_card(store, values["detector"], _told_later)


def _inbox(store: Store, values: Values) -> None:
    day = values["date"] or datetime.now(ZoneInfo(values["timezone"])).date()
    if find_night(store, values["series"], day) is None:
        refuse_missing(values["inbox"])


def _evaluate(store: Store, values: Values) -> None:
    if values["name"] is None or not store.exists("evaluations", values["name"], "card.json"):
        refuse_missing(values["images"])
        if values["ood"]:
            refuse_missing([named_set(each)[1] for each in values["ood"]])


def refuse_no_detector(store: Store, detector: str | None, laboratory: str | None) -> None:
    """Raise StoreError where there is no store, or no detector in it, and say what to do."""
    try:
        refuse_absent(store)
    except StoreError:
        raise StoreError(
            f"there is no store in {store.url} to take a detector from: name the one that has it "
            "with --store, or make one with slidewatch train and then slidewatch fit"
        ) from None
    detector_at(store, detector, laboratory, _told_later)


def _look(store: Store, values: Values) -> None:
    refuse_missing(values["photo"])
    refuse_no_detector(store, values["detector"], values["laboratory"])


CHECKS: dict[type[Options], tuple[Callable[[Store, Values], None], ...]] = {
    flows.Train: (_train,),
    flows.Fit: (_model, _images),
    flows.Commission: (_laboratory, _images),
    flows.Retract: (_retract,),
    flows.Segment: (_segment,),
    flows.Screen: (_detector, _images),
    flows.Nightly: (_detector, _inbox),
    flows.Evaluate: (_detector, _evaluate),
    tools.Look: (_look,),
}
