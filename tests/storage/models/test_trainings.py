import numpy as np

from storage.models.trainings import load_state, remove_states, save_state
from storage.store import Store


def state(value: int) -> dict[str, np.ndarray]:
    return {"model/w": np.full((2, 2), value, np.float32), "model/n": np.array(value)}


def test_the_newest_state_comes_back_and_the_others_are_gone(store: Store) -> None:
    assert load_state(store, "t", print) is None
    for epoch in (1, 2, 3):
        save_state(store, "t", epoch, state(epoch))
    found = load_state(store, "t", print)
    assert found is not None
    assert found["model/w"].tolist() == [[3, 3], [3, 3]]
    assert found["model/n"].shape == ()
    assert store.names("trainings", "t") == ["epoch-0003.json", "epoch-0003.safetensors"]
    save_state(store, "other", 1, state(7))
    remove_states(store, "t")
    assert load_state(store, "t", print) is None
    assert load_state(store, "other", print) is not None


def test_a_damaged_state_is_told_of_and_training_begins_anew(store: Store) -> None:
    save_state(store, "t", 1, state(1))
    content = bytearray(store.read_bytes("trainings", "t", "epoch-0001.safetensors"))
    content[-1] ^= 1
    store.write_bytes(bytes(content), "trainings", "t", "epoch-0001.safetensors")
    told: list[str] = []
    assert load_state(store, "t", told.append) is None
    assert "epoch-0001.safetensors" in told[0]
    save_state(store, "t", 1, state(1))
    assert load_state(store, "t", told.append) is not None


def test_a_kill_between_two_states_leaves_the_newer(store: Store) -> None:
    save_state(store, "t", 1, state(1))
    old = {n: store.read_bytes("trainings", "t", n) for n in store.names("trainings", "t")}
    save_state(store, "t", 2, state(2))
    for name, content in old.items():
        store.write_bytes(content, "trainings", "t", name)
    found = load_state(store, "t", print)
    assert found is not None
    assert found["model/n"] == 2
