from typing import cast

import numpy as np
import pytest
from distributed import Client

from flows.cluster.here import Here
from flows.jobs.scoring import scores
from flows.jobs.scoring.screened import Screened
from flows.stages import scoring
from storage.store import Store
from tests.support.drawn_slides import fitted_detector, made_up
from tests.support.shards import keep_detector

HERE = cast(Client, Here())


def screened(store: Store, slides: list[tuple[str | None, str | None, int, float]]) -> Screened:
    night = made_up(store, slides, shard_rows=8)
    detector = fitted_detector(np.random.default_rng(0))
    return Screened(store, night.batch, night.card, keep_detector(store, detector, slides=12))


def test_a_part_is_scored_when_its_shards_are_done_and_others_are_not(
    store_with_model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = screened(store_with_model, [(f"p{n}", f"s{n}", 40, 0.0) for n in range(8)])
    run, extract_or_score = list[str](), scores.extract_or_score

    def noted(job: object) -> object:
        run.append(type(job).__name__)
        return extract_or_score(job)  # type: ignore[arg-type]

    monkeypatch.setattr(scores, "extract_or_score", noted)
    scored = scoring.extract_and_score(HERE, of, scoring.Scored.nothing_of(of))
    assert run.count("ScoreJob") == 8
    assert run.count("ShardJob") == 40
    assert run.index("ScoreJob") < 12
    assert run[-8:] != ["ScoreJob"] * 8
    assert scored.done == {part.rows for part in scored.parts}


def test_what_needs_the_night_is_scored_after_all_shards(store_with_model: Store) -> None:
    """Slides of few cells, images without a name, and a slide whose cells all failed."""
    slides = [
        ("a", "a1", 40, 0.0), ("b", "b1", 12, 0.0), ("c", "c1", 40, 0.0), ("d", "d1", 40, np.nan),
        (None, None, 40, 0.0),
    ]  # fmt: skip
    of = screened(store_with_model, slides)
    scored = scoring.extract_and_score(HERE, of, scoring.Scored.nothing_of(of))
    assert scored.done == {range(40), range(52, 92)}
    scored = scoring.score_rest(HERE, of, scored)
    assert scored.done == {part.rows for part in scored.parts}


def test_a_scored_part_is_read_and_not_scored_again(
    store_with_model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = screened(store_with_model, [(f"p{n}", f"s{n}", 40, 0.0) for n in range(3)])
    first = scoring.extract_and_score(HERE, of, scoring.Scored.nothing_of(of))
    monkeypatch.setattr(scores, "_scorer", None)
    again = scoring.extract_and_score(HERE, of, scoring.Scored.nothing_of(of))
    assert again.done == first.done
    assert np.array_equal(again.heads, first.heads)
    assert again.heads.all()
    some = np.linspace(0, 1, 50)
    assert np.array_equal(again.q_values.of(some), first.q_values.of(some), equal_nan=True)
