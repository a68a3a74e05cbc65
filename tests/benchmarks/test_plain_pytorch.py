"""Screening from files to the published report, against plain PyTorch from files to scores.

The same network, weights and images; both have their workers running and the network loaded before
the clock starts. Ours also keeps the features and publishes a report.

Two limits beside it: the network of plain PyTorch on pixels that are in memory, channels last, and
what two cores could do if they only decoded images and computed our network, by processor time.
"""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from flows.cluster.client import open_client
from flows.jobs.networks import load_inference
from flows.settings import Settings
from storage.batches.features import read_block
from storage.batches.manifests import load_batch
from storage.models import contributions, detectors, statistics
from storage.models.classifiers import load_card, load_weights
from storage.parquet import read_table
from storage.store import Store
from tasks.images.listing import list_images
from tasks.images.regions import image_refs
from tasks.network.backbones import build
from tasks.network.classifier import Classifier
from tasks.network.extraction import extract
from tasks.network.spec import NetworkSpec
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.plain_pytorch import BATCH, Scorer, Screener, dataset
from tests.support.screening import screen_anew

IMAGES, WARM_UP, ROUNDS = (512, 512, 2) if QUICK else (2048, 1024, 3)

LAYOUTS = {
    "plain PyTorch": torch.contiguous_format,
    "plain PyTorch, channels last": torch.channels_last,
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def network(store: Store, model: str, memory_format: torch.memory_format) -> Classifier:
    """The network as it was trained, nothing folded."""
    card = load_card(store, model)
    made = build(NetworkSpec.from_dict(card.network))
    weights = load_weights(store, card)
    made.load_state_dict({name: torch.from_numpy(weights[name]) for name in made.state_dict()})
    return made.to(memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def scorers(store: Store, model: str) -> dict[str, Scorer]:
    """Fitted to the images that our statistics are fitted to."""
    batch, card = load_batch(store, "fitted"), load_card(store, model)
    block = read_block(store, model, batch.key, 0, batch.rows)
    lineage = statistics.latest_statistics(store, model)
    assert lineage is not None
    (contribution,) = lineage.contributions
    good = contributions.contributed(store, card, contribution).rows
    spec = NetworkSpec.from_dict(card.network)
    return {tap: Scorer(block.taps[tap][good], block.label[good]) for tap in spec.distance_taps}


@pytest.mark.benchmark
def test_screening_speed_against_plain_pytorch(
    cells: str, fitted: Settings, record: Record
) -> None:
    store = Store(fitted.store)
    model = detectors.load_detector_card(store).model
    manifest = list_images(cells, limit=IMAGES)
    images = dataset(manifest["uri"].to_pylist(), load_card(store, model).network["side"])
    rivals, fitted_scorers = {}, scorers(store, model)
    for name, layout in LAYOUTS.items():
        classifier = network(store, model, layout)
        taps = {tap: classifier.backbone.get_submodule(tap) for tap in fitted_scorers}
        rivals[name] = Screener(classifier, taps, fitted_scorers, images)
    for rival in rivals.values():
        rival.warm_up()
    card, refs = load_card(store, model), image_refs(manifest)
    pixels = torch.stack([images[row] for row in range(len(images))])
    last, own = network(store, model, torch.channels_last), load_inference(store, card)

    @torch.no_grad()
    def in_memory() -> None:
        for some in pixels.split(BATCH):
            last(some.to(memory_format=torch.channels_last))

    def bound() -> float:
        began = time.process_time()
        extract(own, refs, tap_widths=card.tap_widths)
        return (time.process_time() - began) / 2

    with open_client(fitted) as client:
        screen_anew(client, fitted, manifest.slice(0, WARM_UP), "warm-up")
        taken = in_turn(
            ROUNDS,
            {
                "ours": lambda: screen_anew(client, fitted, manifest, "plain"),
                **{name: rival.screen for name, rival in rivals.items()},
                "channels last, in memory": in_memory,
                "two cores that only decode and compute": bound,
            },
        )
        rows = read_table(store, *screen_anew(client, fitted, manifest, "scores"))
    theirs = rivals["plain PyTorch"].screen()
    for tap in fitted_scorers:
        ours = rows[f"distance_{tap}"].to_numpy()
        assert np.corrcoef(np.log(ours), np.log(theirs[tap]))[0, 1] > 0.9
    what = f"{IMAGES} {'NIH' if cells.endswith('.zip') else 'rendered'} cells"
    speed = {name: [IMAGES / seconds for seconds in each] for name, each in taken.items()}
    for name in [each for each in taken if each != "ours"]:
        record(
            f"{what}, screen / {name}",
            "images/s",
            ours=speed["ours"],
            rival=speed[name],
            higher_is_better=True,
        )
