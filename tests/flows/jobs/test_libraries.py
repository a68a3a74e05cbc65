import pytest

from flows.jobs import libraries
from flows.jobs.libraries import PACKAGES, VersionsDifferError, differences, installed, run_if_same


def test_every_version_that_matters_is_known_here() -> None:
    found = installed()
    assert set(found) == {"python", *PACKAGES}
    assert libraries.MISSING not in found.values()


def test_a_difference_says_who_has_what() -> None:
    here = {"torch": "2.6.0", "dask": "2026.8.0"}
    workers = {f"v{i}": here for i in range(3)}
    assert differences(here, workers) == []
    odd = {f"w{i}": here | {"torch": "2.5.1"} for i in range(40)}
    scheduler = {"the scheduler": {"dask": "2025.1.0"}}
    assert differences(here, workers | odd | scheduler) == [
        "torch is 2.6.0 here but 2.5.1 on w0, w1, w2 and 37 more",
        "dask is 2026.8.0 here but 2025.1.0 on the scheduler",
    ]


def test_what_is_missing_differs() -> None:
    there = libraries.comparable({"python": "3.11.9.final.0", "timm": None})
    assert differences({"timm": "1.0.19"}, {"w": there}) == ["timm is 1.0.19 here but none on w"]


def test_a_job_is_done_only_where_versions_are_the_same() -> None:
    assert run_if_same(installed(), abs, -3) == 3
    with pytest.raises(VersionsDifferError, match=r"zarr is 0\.1 here but .* on "):
        run_if_same(installed() | {"zarr": "0.1"}, abs, -3)
