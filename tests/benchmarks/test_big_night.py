"""A big night by the command itself: time of each stage, memory, and what a kill at the half costs.

The images are thumbnails, for a network of that side: what is not the network is seen the better.
``SLIDEWATCH_BENCH_IMAGES=1000000`` makes it a night of a million.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from flows.fit import fit
from flows.options.flows import Fit, Train
from flows.settings import Settings
from flows.train import train
from tests.support.images import write_cells
from tests.support.measuring import QUICK, Record

FEW = 1_000 if QUICK else 10_000
MANY = 3_000 if QUICK else int(os.environ.get("SLIDEWATCH_BENCH_IMAGES", "100000"))
SHARD = 512
SIDE = 48
KILLED_AFTER = MANY // SHARD // 2  # shards
GROWTH = 1.05  # of memory, against the night of few
SERIAL = 0.05  # the share of a night in which the workers wait
BOOKKEEPING = 30.0  # seconds from a command to its first new shard, after a kill
STAGES = ("recognise", "freeze", "extract", "score", "publish", "page")


@dataclass
class Night:
    """The log of a night's command, when each line came, and the peak of each process in MiB."""

    lines: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def stage(self, name: str) -> float:
        """Seconds that a stage took."""
        return sum(
            line["seconds"]
            for _, line in self.lines
            if line.get("stage") == name and line.get("event") == "end"
        )

    def first_new_shard(self) -> float:
        """Seconds from the command to the end of the first shard that was not there before."""
        return next(at for at, line in self.lines if line.get("reused") is False)


def command(settings: Settings, images: Path, name: str, killed_after: int | None = None) -> Night:
    """Screen by the command; kill it and its workers when so many shards are done."""
    night, started = Night(), time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "flows.commands.main", "screen", "--images", str(images),
         "--batch", name, "--store", settings.store, "--workers", "2", "--logs", "json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(running.pid, night.peaks, ended))
        watch.start()
        done = 0
        for text in running.stderr:
            if not text.startswith("{"):
                continue
            line = json.loads(text)
            night.lines.append((time.monotonic() - started, line))
            done += "reused" in line
            if done == killed_after:
                os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        ended.set()
        watch.join()
    night.seconds = time.monotonic() - started
    assert running.returncode == (0 if killed_after is None else -signal.SIGKILL)
    return night


def _watch(pid: int, peaks: dict[str, float], ended: threading.Event) -> None:
    """Note the memory of a command and of its workers, each second."""
    command = psutil.Process(pid)
    while not ended.wait(1.0):
        try:
            taken = {"coordinator": command.memory_info().rss / 2**20}
            below = command.children(recursive=True)
            workers = [each for each in below if "multiprocessing" in " ".join(each.cmdline())]
            taken["worker"] = max((w.memory_info().rss / 2**20 for w in workers), default=0.0)
        except psutil.NoSuchProcess:
            continue  # it has just ended
        for who, now in taken.items():
            peaks[who] = max(peaks.get(who, 0.0), now)


def folder_of(images: list[Path], number: int, to: Path) -> Path:
    """Copy images until there are so many, a thousand to a folder, no two of the same bytes.

    Features of the same bytes would be used again.
    """
    contents = [image.read_bytes() for image in images]
    for i in range(number):
        folder = to / f"slide-{i // 1000:04}"
        if i % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{i}.png").write_bytes(contents[i % len(contents)] + f"{to.name}{i}".encode())
    return to


def thumbnails(to: Path, patients: int, parasitized: float, seed: int) -> list[Path]:
    """Render cells, 50 of each patient, at half their size."""
    write_cells(to, patients, 50, seed=seed, parasitized=parasitized)
    images = sorted(to.rglob("*.png"))
    for image in images:
        with Image.open(image) as cell:
            cell.reduce(2).save(image)
    return images


@pytest.fixture
def fitted(tmp_path: Path) -> Settings:
    """Settings of a store with a model of thumbnails and its detector."""
    settings = Settings(store=str(tmp_path / "store"), workers=2)
    known = tmp_path / "known"
    thumbnails(known, patients=30, parasitized=0.5, seed=1)
    train.fn(Train(images=str(known), model="thumbnails", side=SIDE, epochs=2), settings)
    fit.fn(Fit(images=str(known), batch="fitted"), settings)
    return settings


@pytest.mark.benchmark
def test_a_big_night_beside_a_small_one(fitted: Settings, tmp_path: Path, record: Record) -> None:
    images = thumbnails(tmp_path / "cells", patients=20, parasitized=0.02, seed=0)
    few = command(fitted, folder_of(images, FEW, tmp_path / "few"), "few")
    many = folder_of(images, MANY, tmp_path / "many")
    half = command(fitted, many, "many", killed_after=KILLED_AFTER)
    rest = command(fitted, many, "many")

    resumed = rest.first_new_shard()
    record("from a command to its first new shard", "s", ours=[resumed], rival=[
        few.first_new_shard()], limit=BOOKKEEPING)  # fmt: skip
    whole = half.seconds + rest.seconds
    record(f"{MANY:,} images, half of them after a kill", "images/s", ours=[MANY / whole], rival=[
        FEW / few.seconds], higher_is_better=True)  # fmt: skip
    for name in STAGES:
        taken = half.stage(name) + rest.stage(name)
        # The kill cut the extraction off, which then tells no time.
        timed = MANY - KILLED_AFTER * SHARD if name == "extract" else MANY
        ours, theirs = 1000 * taken / timed, 1000 * few.stage(name) / FEW
        record(
            f"{name}, a thousand images of {MANY:,} / of {FEW:,}", "s", ours=[ours], rival=[theirs]
        )
        if name in ("freeze", "publish"):
            record(f"share of the night that is {name}", "", ours=[taken / whole], limit=SERIAL)
    for who in ("worker", "coordinator"):
        grown = max(half.peaks[who], rest.peaks[who])
        record(f"peak of the {who}, {MANY:,} images / {FEW:,}", "MiB", ours=[grown], rival=[
            few.peaks[who]])  # fmt: skip
        record(f"growth of the {who}", "times", ours=[grown / few.peaks[who]], limit=GROWTH,
               bound=0.8)  # fmt: skip
    assert resumed < BOOKKEEPING
