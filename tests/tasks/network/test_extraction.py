from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.images.listing import list_images
from tasks.network import extraction
from tasks.network.conversion import inference
from tasks.network.extraction import UNKNOWN, Features, blur, extract, load_image, rows_looked_at
from tasks.network.inference import Inference
from tasks.network.spec import NetworkSpec
from tests.support.images import refusal_of, whole_file
from tests.support.networks import StandIn, drawn

WIDTHS = {"layer1": 32, "layer2": 48}


@pytest.fixture(scope="module")
def network(spec: NetworkSpec) -> Inference:
    return inference(drawn(spec))


@pytest.fixture(scope="module")
def uris(cells: Path) -> list[str]:
    found: list[str] = list_images(str(cells))["uri"].to_pylist()
    return found


def run(network: Inference, uris: list[str], batch: int = 5, threads: int = 2) -> Features:
    network = replace(network, device=replace(network.device, batch=batch, threads=threads))
    return extract(network, [whole_file(uri) for uri in uris], tap_widths=WIDTHS)


def arrays(features: Features) -> dict[str, NDArray[np.float32]]:
    return {**features.taps, "logits": features.logits}


@pytest.fixture
def bad(tmp_path: Path, uris: list[str]) -> str:
    """Half of a cell's file."""
    content = Path(uris[0].removeprefix("file://")).read_bytes()
    (tmp_path / "bad.png").write_bytes(content[: len(content) // 2])
    return f"file://{tmp_path}/bad.png"


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_same_files_give_the_same_bits_whatever_the_number_of_threads(
    network: Inference, uris: list[str], threads: int
) -> None:
    wanted = arrays(run(network, uris))
    found = arrays(run(network, uris, threads=threads))
    assert wanted.keys() == found.keys() == {*network.spec.taps, "logits"}
    for name, values in wanted.items():
        assert values.tobytes() == found[name].tobytes()
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


def test_every_image_has_its_own_row(network: Inference, uris: list[str]) -> None:
    together = arrays(run(network, uris))
    for row in (0, 4, 5, len(uris) - 1):
        for name, values in arrays(run(network, [uris[row]])).items():
            np.testing.assert_allclose(together[name][row], values[0], rtol=1e-4, atol=1e-5)
    assert len(np.unique(together["logits"], axis=0)) == len(uris)


@pytest.mark.parametrize("place", [0, 3, 4, 24])
def test_a_bad_image_changes_no_other_beyond_rounding(
    network: Inference, uris: list[str], bad: str, place: int
) -> None:
    # Images after it share a forward pass with other neighbours than they would have without it,
    # which moves their features by a few units in the last place and no more. Images in earlier
    # passes do not move at all.
    without = arrays(run(network, uris))
    with_bad = arrays(run(network, [*uris[:place], bad, *uris[place:]]))
    unmoved = place // 5 * 5
    for name, values in with_bad.items():
        assert np.isnan(values[place]).all()
        others = np.delete(values, place, axis=0)
        np.testing.assert_array_equal(others[:unmoved], without[name][:unmoved])
        np.testing.assert_allclose(others, without[name], rtol=1e-4, atol=1e-5)


def test_a_bad_image_is_a_failure_that_still_names_its_bytes(
    network: Inference, uris: list[str], bad: str
) -> None:
    image = run(network, [uris[0], bad, uris[1]]).images[1]
    assert (image.failure and image.failure.reason) == "damaged"
    assert image.image_id == sha256(Path(bad.removeprefix("file://")).read_bytes()).digest()
    assert image.size is None


@pytest.mark.parametrize(
    "uri",
    ["file:///none.png", "zip://1.png::file:///none.zip", "gopher://1.png", "zip://1.png", ""],
)
def test_what_cannot_be_read_is_a_failure_and_never_an_error(uri: str) -> None:
    assert refusal_of(whole_file(uri)).reason == "unreadable"
    image = load_image(whole_file(uri), 32)
    assert str(image.failure)
    assert image.image_id is image.size is image.pixels is None


def test_a_wrong_extension_deceives_nobody(tmp_path: Path, uris: list[str]) -> None:
    content = Path(uris[0].removeprefix("file://")).read_bytes()
    (tmp_path / "cell.jpg").write_bytes(content)
    found, wanted = (
        load_image(whole_file(uri), 32) for uri in (f"file://{tmp_path}/cell.jpg", uris[0])
    )
    assert found.pixels is not None
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    assert (found.image_id, found.size) == (wanted.image_id, wanted.size)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_but_bad_images_is_extracted_without_a_forward_pass(
    network: Inference, bad: str, count: int
) -> None:
    idle = replace(network, device=StandIn(lambda _: pytest.fail("forward pass")))
    features = run(idle, [bad] * count, batch=2)
    assert features.taps.keys() == WIDTHS.keys()
    assert all(features.taps[name].shape == (count, width) for name, width in WIDTHS.items())
    assert all(np.isnan(values).all() for values in arrays(features).values())
    assert len(features.images) == count


def test_passes_are_filled_with_good_images_in_order(
    network: Inference, uris: list[str], bad: str
) -> None:
    sizes: list[int] = []
    begin = network.device.begin
    counting = replace(network, device=StandIn(lambda p: sizes.append(len(p)) or begin(p)))
    run(counting, [bad, *uris[:3], bad, *uris[3:7], bad, *uris[7:11]], batch=4)
    assert sizes == [4, 4, 3]


def test_pixels_are_let_go(network: Inference, uris: list[str]) -> None:
    assert all(image.pixels is None for image in run(network, uris).images)


def test_some_images_are_diagnosed_again_blurred(
    network: Inference, uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [whole_file(uri) for uri in uris]
    doubtful = extract(network, refs, tap_widths=WIDTHS, looked_at=range(99))
    assert (doubtful.steady == UNKNOWN).all()  # this network is sure of nothing
    monkeypatch.setattr(extraction, "SURE", 0.0)
    plain, looked = (
        extract(network, refs, tap_widths=WIDTHS, looked_at=rows) for rows in ((), range(0, 99, 3))
    )
    assert (plain.steady == UNKNOWN).all()
    assert (looked.steady != UNKNOWN).tolist() == [row % 3 == 0 for row in range(len(refs))]
    for name, values in arrays(plain).items():
        np.testing.assert_array_equal(values, arrays(looked)[name])
    pixels = load_image(refs[0], network.spec.side).pixels
    assert pixels is not None
    _, again = network.run(blur(pixels)[np.newaxis])
    assert looked.steady[0] == (again.argmax() == looked.logits[0].argmax())


@pytest.mark.parametrize(("images", "every"), [(1, 1), (60, 1), (300, 6), (2400, 50), (10**6, 50)])
def test_one_image_in_fifty_is_looked_at_again_and_more_of_few(images: int, every: int) -> None:
    rows = [
        start + row
        for start in range(0, min(images, 5000), 512)
        for row in rows_looked_at(start, min(start + 512, images, 5000), images)
    ]
    assert rows == list(range(0, min(images, 5000), every))
