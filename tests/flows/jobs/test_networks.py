"""Networks of a user's own are code, which only this machine's settings allow."""

import json

import pytest
import torch

from flows.jobs.networks import ForeignNetworkError, refuse_foreign_network
from flows.train import train
from tasks.network.backbones import build, network_spec
from tasks.network.classifier import NetworkError, tap_widths

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
        train("cells", network=OWN)
    monkeypatch.setenv("SLIDEWATCH_NETWORKS", json.dumps([OWN]))
    refuse_foreign_network(OWN)
