import pytest

from flows.jobs import libraries
from flows.jobs.libraries import PACKAGES, VersionsDifferError, installed, run_if_same


def test_every_version_that_matters_is_known_here() -> None:
    found = installed()
    assert set(found) == {"python", *PACKAGES}
    assert libraries.MISSING not in found.values()


def test_a_job_is_done_only_where_versions_are_the_same() -> None:
    assert run_if_same(installed(), abs, -3) == 3
    with pytest.raises(VersionsDifferError, match=r"zarr is 0\.1 here but .* on "):
        run_if_same(installed() | {"zarr": "0.1"}, abs, -3)
