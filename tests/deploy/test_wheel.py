"""The wheel, as somebody has it who has no checkout."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from flows.settings import Settings
from tests.support import images, needs, paths

PACKAGES = ("flows", "tasks", "storage")
LOCKS = paths.ROOT / "deploy" / "locks"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    (made,) = folder.glob("*.whl")
    return made


def run(*command: str | Path, cwd: Path = paths.ROOT) -> str:
    """Run a program that knows nothing of this checkout or this machine's settings."""
    own = ("PYTHON", "PREFECT", "SLIDEWATCH", "DASK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def empty_environment(folder: Path, *, with_pip: bool) -> Path:
    """Make an environment without any package; return its folder of programs."""
    venv.create(folder, with_pip=with_pip, symlinks=True)
    return folder / "bin"


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    told = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES)
    assert found == set(told.splitlines())


def test_the_wheel_runs_beside_its_dependencies_alone(wheel: Path, tmp_path: Path) -> None:
    """The dependencies are those of the tests; the checkout itself is not among them."""
    programs = empty_environment(tmp_path / "venv", with_pip=False)
    python = programs / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel
    )
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(packages))
    where = run(python, "-c", "import flows; print(flows.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    said = run(programs / "slidewatch", "--version", cwd=tmp_path)
    assert wheel.name.split("-")[1] in said


@pytest.mark.slow
def test_the_wheel_screens_a_night_in_an_empty_environment(
    wheel: Path, ready: Settings, tmp_path: Path
) -> None:
    programs = empty_environment(tmp_path / "venv", with_pip=True)
    install = (programs / "python", "-m", "pip", "install", "--quiet")
    try:
        run(*install, "--require-hashes", "--no-deps", "--requirement", LOCKS / "image.txt")
    except AssertionError as error:
        if "No matching distribution" in str(error):
            needs.lacking("registry", "no package can be installed")
        raise
    run(*install, "--constraint", LOCKS / "torch.txt", wheel)
    run(programs / "python", "-m", "pip", "check")
    cells = tmp_path / "cells"
    images.write_cells(cells, 1, 10, seed=7)
    store = ("--store", ready.store, "--json")
    doctor = run(programs / "slidewatch", "doctor", *store, cwd=tmp_path)
    assert json.loads(doctor)
    night = ("--images", str(cells), "--batch", "night", "--workers", "1")
    done = json.loads(run(programs / "slidewatch", "screen", *night, *store, cwd=tmp_path))
    assert (done["images"], done["scored"]) == (10, 10)
