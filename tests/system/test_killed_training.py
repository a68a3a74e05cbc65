"""A training that is killed goes on with the same command, and makes the same model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.models.classifiers import ModelCard, find_card
from storage.store import Store
from tasks.synthetic.rendered_cells import write_collection


def begin(smears: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.commands.main", "train", "--images", str(smears)]
    options = ["--store", str(store), "--epochs", "4", "--side", "32"]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *options],
        env=os.environ | one_thread,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes], store: Path) -> tuple[ModelCard, str]:
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said.decode()
    return find_card(Store(str(store)), None), said.decode()


@pytest.mark.slow
def test_a_training_killed_in_its_third_epoch_makes_the_same_model(tmp_path: Path) -> None:
    smears = tmp_path / "smears"
    write_collection(smears, patients=12, cells_per_patient=40, parasitized_fraction=0.5, seed=1)
    undisturbed, _ = ended(begin(smears, tmp_path / "a"), tmp_path / "a")
    killed = begin(smears, tmp_path / "b")
    while not list((tmp_path / "b").glob("trainings/*/epoch-0002.json")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not Store(str(tmp_path / "b")).exists("models")
    resumed, said = ended(begin(smears, tmp_path / "b"), tmp_path / "b")
    assert "epoch 1 of 4" not in said
    assert "epoch 4 of 4" in said
    assert resumed.digest == undisturbed.digest
    assert resumed.name == undisturbed.name
    plain = [json.loads(each.model_dump_json()) for each in (undisturbed, resumed)]
    assert plain[0]["metrics"] == plain[1]["metrics"]
