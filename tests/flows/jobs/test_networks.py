"""Models are run from their graph; a user's own network is code, which the settings allow."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flows.fit import FitOutcome
from flows.jobs.networks import GRAPH, ForeignNetworkError, load_inference, refuse_foreign_network
from flows.options.flows import Train
from flows.settings import Settings
from flows.train import train
from storage.models.classifiers import load_card
from storage.records import arrays_from_bytes, arrays_to_bytes
from storage.store import Store, digest_of
from tasks.network import inference
from tasks.network.backbones import build, network_spec
from tasks.network.classifier import tap_widths
from tasks.network.gpu import PyTorch
from tasks.network.processor import OpenVino
from tasks.network.spec import NetworkError
from tests.support.fitted import copied
from tests.support.processes import python

OWN = "tests.support.own_networks:small"


def test_a_network_of_ones_own_is_built_by_its_path() -> None:
    spec = network_spec(OWN, ("a", "b"), 32, taps=("stage",))
    classifier = build(spec)
    assert tap_widths(classifier)["stage"] == 4
    logits = classifier(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 2)
    assert not logits.any()  # a new last layer starts undecided


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("tests.support.own_networks:no_network", "returns int, no torch Module"),
        ("tests.support.own_networks:gone", "makes no network"),
        ("no.such.module:small", "makes no network"),
    ],
)
def test_what_is_no_network_is_said(network: str, said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        network_spec(network, ("a", "b"), 32, taps=("stage",))


def test_no_code_is_imported_that_the_settings_do_not_name(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_foreign_network("timm:resnet18")
    with pytest.raises(ForeignNetworkError, match="it names none"):
        train.fn(Train(images="cells", network=OWN), Settings())
    monkeypatch.setenv("SLIDEWATCH_NETWORKS", json.dumps([OWN]))
    refuse_foreign_network(OWN)


PASS = """
import sys
import numpy as np
from flows.jobs.worker import network_of
from storage.models.classifiers import load_card
from storage.store import Store

store = Store(sys.argv[1])
network = network_of(store, load_card(store, "tiny"))
pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
torch = sys.modules.get("torch")
print(network.run(pixels)[1].tobytes().hex(), torch and torch.get_num_threads())
"""


def passed(store: Store) -> tuple[NDArray[np.float32], str]:
    """Run a store's model in a process of its own: the logits, and PyTorch's threads."""
    done = python("-c", PASS, store.url)
    logits, threads = done.stdout.split()
    return np.frombuffer(bytes.fromhex(logits), np.float32), threads


@pytest.mark.slow
def test_a_model_runs_without_pytorch_unless_it_has_no_graph(
    store_with_model: Store,
) -> None:
    wanted, threads = passed(store_with_model)
    assert threads == "None"  # it was not imported
    path = Path(store_with_model.path("models", "tiny", "model.safetensors"))
    arrays = arrays_from_bytes(path.read_bytes())
    weights = arrays_to_bytes({n: a for n, a in arrays.items() if not n.startswith(f"{GRAPH}/")})
    path.write_bytes(weights)
    card = load_card(store_with_model, "tiny")
    card.model_copy(update={"digest": digest_of(weights)}).write(
        store_with_model, "models", "tiny", "card.json"
    )
    found, threads = passed(store_with_model)
    assert threads == "1"
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_pytorch_runs_a_model_where_there_is_a_gpu(
    store_with_model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, its passes are on the processor, which is as far as a test goes."""
    card = load_card(store_with_model, "tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    network = load_inference(store_with_model, card)
    assert isinstance(network.device, OpenVino)
    monkeypatch.setattr(inference, "has_gpu", lambda: True)
    load_inference.cache_clear()
    other = load_inference(store_with_model, card)
    load_inference.cache_clear()
    assert isinstance(other.device, PyTorch)
    np.testing.assert_allclose(other.run(pixels)[1], network.run(pixels)[1], rtol=1e-5, atol=1e-5)


NIGHT = """
import sys
from flows.cluster.client import open_client
from flows.options.flows import Screen
from flows.smears.night import screen
from flows.settings import Settings

def imported():
    return sorted({"torch", "timm"} & sys.modules.keys())

if __name__ == "__main__":
    settings = Settings(store=sys.argv[1], workers=1)
    with open_client(settings) as client:
        outcome = screen.fn(Screen(images=sys.argv[2], batch="night"), settings)
        print(outcome.scored, outcome.page_failure, *client.run(imported).values())
"""


def test_no_worker_imports_pytorch_in_a_whole_night(
    fitted: tuple[Settings, FitOutcome], images: Path, tmp_path: Path
) -> None:
    settings = copied(fitted[0], tmp_path / "store")
    done = python("-c", NIGHT, settings.store, images / "night")
    assert done.stdout.splitlines()[-1] == "36 None []"
