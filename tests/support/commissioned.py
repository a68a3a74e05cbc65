"""Laboratories that are commissioned on real workers, without being screened at."""

from contextlib import ExitStack

from flows.cluster.client import open_client
from flows.options.flows import Commission, Unlearn
from flows.settings import Settings
from flows.smears import commission
from flows.smears.commissioning.report import LaboratoryOutcome
from flows.smears.night import prepare
from flows.smears.unlearn import unlearn
from flows.stages.batch import lease_batch
from storage.store import Store


def learn(options: Commission, settings: Settings) -> LaboratoryOutcome:
    """Let a laboratory learn a night."""
    store = Store(settings.store)
    known, parent = commission.known_and_parent(store, options)
    with (
        open_client(settings) as client,
        lease_batch(store, options.batch, wait=False) as held,
        ExitStack() as work,
    ):
        _, begun = prepare(held.store, options.screening(parent.name), settings, work)
        outcome, _ = commission.learn(client, begun, known, options)
    return outcome


def take_out(laboratory: str, batch: str, settings: Settings) -> LaboratoryOutcome:
    """Let a laboratory forget a night."""
    return unlearn.fn(Unlearn(laboratory=laboratory, batch=batch), settings)
