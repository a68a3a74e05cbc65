import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from pydantic import ValidationError

from tasks.limits import FieldLimits
from tasks.smears.reports.slide_reasons import field_reason
from tasks.smears.segmentation.finding import find_cells
from tasks.smears.segmentation.quality import field_quality
from tests.support.needs import needs_data
from tests.support.paths import DATA

GOOD: dict[str, Any] = {
    "failure": None,
    "kind": "field",
    "sharpness": 0.009,
    "too_dark": 0.0,
    "too_bright": 0.0,
    "brightness": 0.7,
    "cells": 19,
    "overlap": 0.03,
    "packed": 0.0,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"sharpness": 0.0039}, "out of focus"),
        ({"brightness": 0.2}, "dark"),
        ({"too_dark": 0.6}, "dark"),
        ({"too_bright": 0.6}, "overexposed"),
        ({"overlap": 0.3}, "crowded"),
        ({"packed": 0.5}, "crowded"),
        ({"cells": 0, "sharpness": None, "overlap": None}, "few cells"),
        ({"cells": 0, "sharpness": float("nan"), "overlap": float("nan")}, "few cells"),
        (
            {"sharpness": 0.001, "too_bright": 1.0, "cells": 0},
            "out of focus, overexposed, few cells",
        ),
        ({"kind": "empty", "cells": 0}, None),
        ({"kind": "thick", "cells": 0, "overlap": 1.0}, None),
        ({"kind": None, "failure": "damaged: cut short", "cells": None}, "failed"),
    ],
)
def test_a_field_is_beyond_a_limit_and_says_which(
    change: dict[str, Any], reason: str | None
) -> None:
    assert field_reason(GOOD | change, FieldLimits()) == reason


@pytest.mark.parametrize("name", [n for n in FieldLimits.model_fields if n != "tolerated"])
def test_what_lies_on_a_limit_keeps_it_and_every_limit_counts(name: str) -> None:
    kind, _, measured = name.partition("_")
    column = {"dark": "too_dark", "bright": "too_bright"}.get(measured, measured)
    row = GOOD | {column: 3 if column == "cells" else 0.5}
    assert field_reason(row, FieldLimits(**{name: row[column]})) is None
    step = 1 if column == "cells" else 0.01
    beyond = row | {column: row[column] + (-step if kind == "least" else step)}
    assert field_reason(beyond, FieldLimits(**{name: row[column]})) is not None


@pytest.mark.parametrize("wrong", [{"most_dark": 1.1}, {"least_cells": -1}, {"sharpness": 0.1}])
def test_limits_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FieldLimits(**wrong)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "out of focus": lambda image: image.filter(ImageFilter.GaussianBlur(5)),
    "dark": lambda image: image.point(lambda level: level * 0.25),
    "overexposed": lambda image: image.point(lambda level: min(255, level * 1.6)),
}


@pytest.mark.slow
@needs_data("fields.zip")
@pytest.mark.parametrize("change", CHANGES)
def test_real_fields_pass_and_spoilt_ones_do_not(change: str) -> None:
    with zipfile.ZipFile(DATA / "fields.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        if change != "as it is":
            names = names[::8]
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    reasons = []
    for image in images:
        pixels = np.asarray(CHANGES[change](image))
        row = {"failure": None, "kind": "field"} | field_quality(pixels, find_cells(pixels))
        reasons.append(field_reason(row, FieldLimits()) or "")
    flagged = sum(change in reason for reason in reasons)
    if change == "as it is":
        assert len([reason for reason in reasons if reason]) <= 2
    else:
        # A field in which the size of a cell is mistaken may look sharper than it is.
        assert flagged >= len(reasons) - 1
