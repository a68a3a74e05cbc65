import json

import numpy as np
import pytest

from tasks.sites.bounds import UnfitError, array, counts, group_keys, number, refuse, semidefinite


def keys(rows: object) -> np.ndarray:
    return np.frombuffer(json.dumps(rows).encode(), np.uint8)


def test_a_refusal_names_field_value_and_limit_and_steers_no_terminal() -> None:
    with pytest.raises(UnfitError) as error:
        refuse("a\x1b[2J", "x\n" * 100, "short")
    assert str(error.value).startswith(r"a\x1b[2J is x\nx\nx")
    assert str(error.value).endswith("..., and must be short")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_numbers_beyond_their_limits_are_refused(value: float) -> None:
    assert number("x", 0.5, 0, 1) == 0.5
    with pytest.raises(UnfitError, match=r"x is .* must be 0 to 1"):
        number("x", value, 0, 1)


def test_arrays_are_of_their_type_and_shape_and_finite() -> None:
    good = np.ones((2, 3))
    assert array("x", {"x": good}, (2, 3)) is not None
    for bad in (good.astype(np.float32), good[:1], np.full((2, 3), np.nan), good[None]):
        with pytest.raises(UnfitError, match="x is "):
            array("x", {"x": bad}, (2, 3))
    for bad in (-good, 0.5 * good):
        with pytest.raises(UnfitError, match="whole and at least 0"):
            counts("x", {"x": bad}, (2, 3))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_real_scatters_are_semidefinite_at_every_scale_and_rank(scale: float) -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 7, 50):
        rows = rng.normal(size=(n, 20)) * scale * 10.0 ** rng.uniform(-4, 4, 20)
        semidefinite("S", rows.T @ rows)
    bad = np.diag([1.0, 1.0, -1e-3]) * scale
    upper, traceless = np.triu(np.ones((3, 3))) * scale, np.eye(3, k=1)
    for matrix in (bad, -bad, upper, traceless, np.full((3, 3), np.nan)):
        with pytest.raises(UnfitError):
            semidefinite("S", matrix)


def test_keys_name_pseudonyms_of_their_batch_once() -> None:
    a, b = ["n", "", "a" * 16], ["n", "b" * 16, "c" * 64]
    assert len(group_keys("keys", keys([a, b]), ["n"])) == 2
    bad = [
        [b, a], [a, a], [["m", "", "a" * 16]], [["n", "P1", ""]], [["n", "a" * 16]], {"n": 1},
        [["n", 1, ""]], [["n", None, ""]], "n", None, [a, "n"], [["n", "", "g" * 16]],
    ]  # fmt: skip
    for rows in bad:
        with pytest.raises(UnfitError, match="keys"):
            group_keys("keys", keys(rows), ["n"])
    with pytest.raises(UnfitError, match="UTF-8"):
        group_keys("keys", np.asarray([255], np.uint8), ["n"])
