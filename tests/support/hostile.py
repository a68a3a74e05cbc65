"""Documents with a field that an attacker has changed."""

import copy
from typing import Any

from hypothesis import strategies as st

LEAVES = st.sampled_from(
    [-7, -1, 0, 1, 2, 10**15, 10**400, 0.5, 1e300, -1e300, float("nan"), float("inf"), None, True,
     "", "x", "all", "../x", "\x1b[31m", "a" * 64, "a" * 10**4, [], {}, [[]], ["x"]]
)  # fmt: skip


@st.composite
def changed_document(draw: st.DrawFn, document: Any) -> Any:
    """Draw a copy of a document with one field changed or taken out."""
    made = copy.deepcopy(document)
    path: list[Any] = []
    at = place = made
    while isinstance(at, dict | list) and at:
        options = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        path.append(draw(st.sampled_from(options)))
        place, at = at, at[path[-1]]
    if draw(st.integers(0, 4)) == 0:
        del place[path[-1]]
    else:
        place[path[-1]] = draw(LEAVES)
    return made
