"""Run the flow `unlearn`: a laboratory's detector -> the next one, without a night."""

from flows.cluster.client import open_client
from flows.monitoring import telemetry
from flows.options.flows import Unlearn
from flows.prefect.decorators import flow
from flows.settings import Settings
from flows.smears.commissioning import report, versions
from flows.smears.commissioning.laboratory import (
    Laboratory,
    LaboratoryError,
    laboratory_lease,
    load_laboratory,
)
from storage.models.detectors import load_detector_card
from storage.store import Store


@flow()
@telemetry.observed()
def unlearn(options: Unlearn, settings: Settings) -> report.LaboratoryOutcome:
    """Take a night, but not the only one, out of a laboratory exactly, and calibrate without it."""
    store, name, batch = Store(settings.store), options.laboratory, options.batch
    load_laboratory(store, name)  # or no worker is started
    with open_client(settings) as client, laboratory_lease(store, name) as held:
        known = load_laboratory(held.store, name)
        parent = load_detector_card(held.store, known.parent)
        lab = Laboratory(client, held, name, known, parent)
        left = [night for night in known.nights if night.batch != batch]
        if len(left) == len(known.nights):
            have = ", ".join(night.batch for night in known.nights)
            raise LaboratoryError(f"night {batch} is not in {known.name}; there are: {have}")
        if not left:
            raise LaboratoryError(
                f"{batch} is the only night of laboratory {name}: commission another one before "
                "it is taken out"
            )
        made = versions.save_version(held, versions.make_version(lab, left, f"unlearn {batch}"))
    changed = f"batch {batch} taken out of laboratory {name}"
    return report.laboratory_outcome(store, made, changed)
