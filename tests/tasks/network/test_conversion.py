import numpy as np
import torch

from tasks.network.backbones import build
from tasks.network.conversion import graph_arrays
from tasks.network.processor import DESCRIPTION
from tasks.network.spec import NetworkSpec


def test_equal_networks_have_equal_graphs_of_data_alone(spec: NetworkSpec) -> None:
    torch.manual_seed(0)
    made = build(spec).eval()
    first, second = graph_arrays(made), graph_arrays(made)
    assert first.keys() == second.keys()
    assert all(np.array_equal(values, second[name]) for name, values in first.items())
    assert first[DESCRIPTION].tobytes().startswith(b"<?xml")
