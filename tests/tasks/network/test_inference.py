import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nncf
import numpy as np
import pytest
import torch

from tasks.network import conversion
from tasks.network.backbones import DEFAULT_NETWORK
from tasks.network.classifier import computed, to_pixels
from tasks.network.conversion import graph_arrays, graph_of, in_int8, inference
from tasks.network.inference import choose, fastest_arithmetic, has_bfloat16
from tasks.network.processor import DESCRIPTION, WEIGHTS, by_openvino, seconds_of
from tasks.network.spec import PENULTIMATE, Arithmetic, NetworkError
from tests.support.needs import needs
from tests.support.networks import StandIn, classifier, computing_in, images

# One that is fused and squeezed, one with sums, one without pooling before its last layers.
NETWORKS = [
    DEFAULT_NETWORK,
    "torchvision:resnet18",
    pytest.param("torchvision:vgg11_bn", marks=pytest.mark.slow),
]

ARITHMETICS = [
    "float32",
    pytest.param("int8", marks=pytest.mark.slow),
    pytest.param("bfloat16", marks=needs("bfloat16", has_bfloat16(), "it is not here")),
]


def refuse(*_: object) -> None:
    raise RuntimeError("no such operation")


@pytest.fixture(autouse=True)
def nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


@pytest.mark.parametrize("network", NETWORKS)
def test_it_gives_what_the_classifier_gives(network: str, caplog: pytest.LogCaptureFixture) -> None:
    taps = ("features.4", PENULTIMATE) if "vgg" in network else None
    wanted_from = classifier(network, taps)
    ready = inference(wanted_from)
    assert not caplog.records  # OpenVINO took it
    for count in (1, 2, 5):
        found_taps, found_logits = ready.run(images(count))
        with torch.inference_mode():
            taps_wanted, logits = computed(wanted_from.features(to_pixels(images(count))))
        assert found_taps.keys() == taps_wanted.keys() == set(wanted_from.spec.taps)
        for found, wanted in [
            (found_logits, logits),
            *((found_taps[name], values) for name, values in taps_wanted.items()),
        ]:
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("by_pytorch", [False, True])
def test_threads_of_a_worker_do_not_disturb_each_other(
    by_pytorch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a scheduler whose workers somebody else has started."""
    if by_pytorch:
        monkeypatch.setattr(conversion, "graph_of", refuse)
    network = inference(classifier(DEFAULT_NETWORK))
    batches = [np.roll(images(4), shift, axis=0)[: 2 + shift % 3] for shift in range(40)]
    wanted = [network.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network.run, batches))
    for (taps, logits), (taps_wanted, logits_wanted) in zip(found, wanted, strict=True):
        assert np.array_equal(logits, logits_wanted)
        assert all(np.array_equal(taps[name], taps_wanted[name]) for name in taps_wanted)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_an_image_has_the_same_bits_in_every_batch(arithmetic: Arithmetic) -> None:
    network, pixels = computing_in(arithmetic), images(37)
    taps, logits = network.run(pixels)
    for size in (1, 5, 16):
        parts = [network.run(pixels[start : start + size]) for start in range(0, 37, size)]
        assert np.array_equal(np.concatenate([part for _, part in parts]), logits)
        for name, values in taps.items():
            assert np.array_equal(np.concatenate([part[name] for part, _ in parts]), values)


@pytest.mark.parametrize("arithmetic", ARITHMETICS[1:])
def test_another_arithmetic_is_near_float32_and_is_not_float32(arithmetic: Arithmetic) -> None:
    fine, fine_logits = computing_in("float32").run(images(5))
    found, logits = computing_in(arithmetic).run(images(5))
    assert logits.dtype == np.float32
    for name, values in found.items():
        assert 0 < np.abs(values - fine[name]).mean() < 0.01 * np.abs(values).max()
    assert not np.array_equal(logits, fine_logits)


def printed(program: str, *words: str, **settings: str) -> list[list[str]]:
    other = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True, text=True, check=True, env=os.environ | settings,
    )  # fmt: skip
    return [line.split() for line in other.stdout.splitlines()]


@pytest.mark.slow
def test_the_same_batch_gives_the_same_bits_again_and_in_another_process() -> None:
    program = (
        "import torch\n"
        "from tests.support.networks import computing_in, images\n"
        "torch.set_num_threads(1)\n"
        f"for each in {['float32', 'int8', *['bfloat16'] * has_bfloat16()]}:\n"
        "    for side, n in ((64, 5), (32, 1)):\n"
        "        found = computing_in(each, side).run(images(n, side))\n"
        "        print(each, side, n, found[1].tobytes().hex())"
    )
    for arithmetic, side, n, logits in printed(program, OMP_NUM_THREADS="2"):
        _, again = computing_in(arithmetic, int(side)).run(images(int(n), int(side)))
        assert logits == again.tobytes().hex()


@pytest.mark.slow
def test_integers_give_the_same_bits_on_processors_without_vnni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of 7 bits; those of 8 overflow there, so the other instructions are used."""
    made, file = classifier(DEFAULT_NETWORK), str(tmp_path / "graph.npz")
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from types import SimpleNamespace\n"
        "from tasks.network.processor import passes, read_network\n"
        "arrays = dict(np.load(sys.argv[1]))\n"
        "run = passes(SimpleNamespace(arithmetic='int8'), read_network(arrays))\n"
        "print(run(arrays['cells'])['logits'].tobytes().hex())"
    )

    def alike() -> list[bool]:
        arrays = graph_arrays(made, in_int8(made, images(40)))
        graph = {name: arrays[name] for name in (DESCRIPTION, WEIGHTS)}
        np.savez(file, cells=images(5), **graph)
        here, *others = (
            printed(program, file, ONEDNN_MAX_CPU_ISA=each)
            for each in ("DEFAULT", "AVX512_CORE", "AVX2")
        )
        return [here == there for there in others]

    assert alike() == [True, True]
    of_8_bits = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE)
    monkeypatch.setattr(nncf, "AdvancedQuantizationParameters", lambda **_: of_8_bits)
    assert alike() == [False, False]


def test_a_network_that_openvino_does_not_take_is_run_by_pytorch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conversion, "graph_of", refuse)
    made = classifier(DEFAULT_NETWORK)
    _, logits = inference(made).run(images(2))
    assert "OpenVINO does not take efficientnet_lite0: no such operation" in caplog.text
    with torch.inference_mode():
        np.testing.assert_allclose(logits, made(to_pixels(images(2))), rtol=1e-4, atol=1e-4)


def test_a_network_that_openvino_computes_otherwise_is_run_by_pytorch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = classifier(DEFAULT_NETWORK)
    right = graph_of(made)
    taps, logits = right.expected
    moved = replace(right, expected=({n: 1.1 * values for n, values in taps.items()}, logits))
    assert by_openvino(made.spec, lambda: moved, kept=False) is None
    assert "OpenVINO computes efficientnet_lite0 otherwise" in caplog.text
    monkeypatch.setattr(conversion, "graph_of", lambda _: moved)
    taps, _ = inference(made).run(images(2))
    with torch.inference_mode():
        wanted, _ = made.features(to_pixels(images(2)))
    np.testing.assert_allclose(taps["blocks.2"], wanted["blocks.2"], rtol=1e-4, atol=1e-4)


def test_a_gpu_is_preferred_where_a_network_has_weights_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor, gpu = StandIn(refuse), StandIn(refuse)
    for has_gpu, wanted in ((False, processor), (True, gpu)):
        monkeypatch.setattr("tasks.network.inference.has_gpu", lambda has=has_gpu: has)
        assert choose(lambda: processor, lambda: gpu) is wanted
        assert choose(lambda: processor, None) is processor
        assert choose(lambda: None, lambda: gpu) is choose(None, lambda: gpu) is gpu
        with pytest.raises(NetworkError, match="OpenVINO does not run this network here"):
            choose(lambda: None, None)


@pytest.mark.parametrize(
    ("seconds", "able", "gpu", "arithmetic"),
    [
        (0.01, True, False, "bfloat16"),
        (0.03, True, False, "int8"),
        (0.01, False, False, "int8"),
        (0.01, False, True, "float32"),
    ],
)
def test_the_fastest_arithmetic_is_chosen(
    monkeypatch: pytest.MonkeyPatch, seconds: float, able: bool, gpu: bool, arithmetic: str
) -> None:
    taken = {"float32": 0.04, "int8": 0.02, "bfloat16": seconds}
    monkeypatch.setattr("tasks.network.inference.seconds_of", taken.__getitem__)
    monkeypatch.setattr("tasks.network.inference.has_bfloat16", lambda: able)
    monkeypatch.setattr("tasks.network.inference.has_gpu", lambda: gpu)
    assert fastest_arithmetic() == arithmetic


def test_an_arithmetic_is_timed() -> None:
    assert 0 < seconds_of("float32") < 10
