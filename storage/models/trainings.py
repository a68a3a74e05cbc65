"""Keep the states of unfinished trainings: ``trainings/<training>/epoch-NNNN...``.

A training is named by the digest of everything that decides its outcome, so only the same training
resumes from its states. They are removed once its model is written.
"""

from storage.arrays import Arrays, arrays_from_bytes, arrays_to_bytes
from storage.records import Card, Tell, load_described, now, save_described
from storage.store import Store, StoreError, digest_of

FOLDER = "trainings"


class TrainingState(Card):
    """The card of a state: the number of epochs completed."""

    epoch: int


def save_state(store: Store, training: str, epoch: int, arrays: Arrays) -> None:
    """Write the state after an epoch, then remove earlier ones; a kill leaves at least one."""
    content = arrays_to_bytes(arrays)
    card = TrainingState(created_at=now(), digest=digest_of(content), epoch=epoch)
    earlier = [name for name in store.names(FOLDER, training) if name.startswith("epoch-")]
    stem = f"epoch-{epoch:04d}"
    for name in (f"{stem}.json", f"{stem}.safetensors"):
        store.remove(FOLDER, training, name)  # damaged, or this epoch would not be repeated
    save_described(
        store, content, card, FOLDER, training,
        file=f"{stem}.safetensors", card_file=f"{stem}.json",
    )  # fmt: skip
    for name in earlier:
        if not name.startswith(stem):
            store.remove(FOLDER, training, name)


def verify_states(store: Store, training: str) -> None:
    """Compare each state with its card; StoreError if one is damaged.

    A state without a card was being written when its run ended.
    """
    for name in store.names(FOLDER, training):
        if name.endswith(".json"):
            _read_state(store, training, name)


def _read_state(store: Store, training: str, card_file: str) -> Arrays:
    card = TrainingState.read(store, FOLDER, training, card_file)
    file = f"{card_file.removesuffix('.json')}.safetensors"
    return arrays_from_bytes(load_described(store, card, FOLDER, training, file))


def load_state(store: Store, training: str, on_damage: Tell) -> Arrays | None:
    """Read the newest undamaged state of a training; None if there is none."""
    cards = [name for name in store.names(FOLDER, training) if name.endswith(".json")]
    for name in sorted(cards, reverse=True):
        try:
            return _read_state(store, training, name)
        except StoreError as error:
            on_damage(f"left out: {error}")
    return None


def remove_states(store: Store, training: str) -> None:
    """Remove the states of a training."""
    for name in store.names(FOLDER, training):
        if name.startswith("epoch-"):
            store.remove(FOLDER, training, name)
