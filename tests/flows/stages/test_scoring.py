from typing import cast

import numpy as np
import pytest
from distributed import Client

from flows.cluster.client import Here
from flows.jobs.scoring import scores
from flows.jobs.scoring.screened import Screened
from flows.stages import scoring
from storage.batches import ledger
from storage.store import Store
from tests.support.drawn_slides import fitted_detector, made_up
from tests.support.shards import keep_detector

HERE = cast(Client, Here())


def screened(store: Store, slides: list[tuple[str | None, str | None, int, float]]) -> Screened:
    night = made_up(store, slides, shard_rows=8)
    detector = fitted_detector(np.random.default_rng(0))
    of = Screened(store, night.batch, night.card, keep_detector(store, detector, slides=12))
    scoring.extract(HERE, of)
    return of


def test_a_failed_slide_is_scored_by_the_same_night_whether_or_not_a_small_one_asks_for_it(
    store_with_model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of a slide whose cells failed do not say that it needs the night."""
    slides = [("a", "a1", 40, 0.0), ("b", "b1", 40, np.nan), ("c", "c1", 40, 0.0)]
    of, described = screened(store_with_model, slides), []

    def describe(job: object) -> object:
        described.append(job)
        return scores.describe_night(job)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "describe_night", describe)
    files = []
    for named in (True, False):
        parts = scoring.parts_of(of)
        assert [part.needs_night for part in parts] == [False] * 3
        with monkeypatch.context() as patched:
            if named:
                patched.setattr(scoring.Part, "needs_night", True)
            scoring.score(HERE, of)
        paths = [
            path(of.batch, of.key, part.rows)
            for part in parts
            for path in (ledger.scores_path, ledger.shifts_path)
        ]
        files.append([of.store.read_bytes(*path) for path in paths])
        ledger.discard_scores(of.store, of.batch, of.key)
    assert len(described) == 1
    assert files[0] == files[1]


def test_a_scored_part_is_read_and_not_scored_again(
    store_with_model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = screened(store_with_model, [(f"p{n}", f"s{n}", 40, 0.0) for n in range(3)])
    first = scoring.score(HERE, of)
    monkeypatch.setattr(scores, "_scorer", None)
    again = scoring.score(HERE, of)
    assert np.array_equal(again.heads, first.heads)
    assert again.heads.all()
    some = np.linspace(0, 1, 50)
    assert np.array_equal(again.q_values.of(some), first.q_values.of(some), equal_nan=True)
