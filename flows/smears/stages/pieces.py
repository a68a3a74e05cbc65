"""Divide the work of calling a batch into pieces of whole slides and patients."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.plan import LEAST_PIECE, LEAST_PIECES, Part
from tasks.reports.image_columns import pairs_of


def pieces_of(
    parts: Sequence[Part], fields: pa.Table | None, most: int
) -> list[tuple[range, pa.Array]]:
    """Divide parts into consecutive pieces of whole slides and patients, of ``most`` rows or more.

    A small night's have fewer. Each comes with the numbers of its slides' ``fields``; a slide
    without cells goes with its patient. Images that name no slide are one slide.
    """
    every = parts[-1].rows.stop if parts else 0
    wanted = min(most, max(every // LEAST_PIECES, LEAST_PIECE))
    spans: dict[tuple[str, str | None], tuple[int, int]] = {}
    for number, part in enumerate(parts):
        for slide in part.slides:
            for name in _names(slide.slide, slide.patient):
                spans[name] = spans.get(name, (number, number))[0], number
    pairs, which = ([], np.zeros(0, np.int64)) if fields is None else pairs_of(fields)
    for pair in pairs:
        known = [spans[name] for name in _names(*pair) if name in spans] or [(0, 0)]
        span = min(low for low, _ in known), max(high for _, high in known)
        spans |= dict.fromkeys(_names(*pair), span)
    crossed = np.zeros(len(parts) + 1, np.int64)
    for low, high in spans.values():
        crossed[low] += 1
        crossed[high] -= 1
    ends, first = [], 0
    for number, is_crossed in enumerate((np.cumsum(crossed) > 0)[:-1].tolist()):
        if parts[number].rows.stop - parts[first].rows.start >= wanted and not is_crossed:
            ends.append(number + 1)
            first = number + 1
    ends += [len(parts)] if first < len(parts) or not parts else []
    of_pair = np.asarray([spans[_names(*pair)[0]][0] for pair in pairs], np.int64)
    place = np.searchsorted(ends, of_pair, side="right")[which]
    return [
        (range(start, end), pa.array(np.flatnonzero(place == number)))
        for number, (start, end) in enumerate(pairwise([0, *ends]))
    ]


def _names(slide: str | None, patient: str | None) -> list[tuple[str, str | None]]:
    return [("slide", slide), *([] if patient is None else [("patient", patient)])]
