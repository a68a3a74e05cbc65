"""Damage to files of any format; each takes a second file to splice with."""

import faulthandler
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from tests.support.peak import peak, start_peak

LONGEST = 60  # seconds for one file, which takes some milliseconds: it hangs
PICTURE = "a picture"

Saved = tuple[str, bytes]  # a format and a file of it


def truncated(rng: random.Random, file: Saved, other: Saved) -> bytes:
    return file[1][: rng.randrange(len(file[1]))]


def flipped(rng: random.Random, file: Saved, other: Saved) -> bytes:
    content = bytearray(file[1])
    reach = rng.choice([100, len(content)])  # half of the time where the structure is
    for _ in range(rng.choice([1, 5, 50])):
        content[rng.randrange(min(reach, len(content)))] ^= 1 << rng.randrange(8)
    return bytes(content)


def spliced(rng: random.Random, file: Saved, other: Saved) -> bytes:
    return file[1][: rng.randrange(len(file[1]))] + other[1][rng.randrange(len(other[1])) :]


def zeroed(rng: random.Random, file: Saved, other: Saved) -> bytes:
    start = rng.randrange(len(file[1]))
    gap = min(rng.choice([1, 16, 4096]), len(file[1]) - start)
    return file[1][:start] + bytes(gap) + file[1][start + gap :]


def with_junk(rng: random.Random, file: Saved, other: Saved) -> bytes:
    return file[1] + rng.randbytes(rng.choice([1, 100, 10_000]))


Damage = Callable[[random.Random, Saved, Saved], bytes]
ANY: tuple[Damage, ...] = (truncated, flipped, spliced, zeroed, with_junk)


def variants(files: list[Saved], kinds: Iterable[Damage], each: int) -> Iterator[Saved]:
    """So many files of every kind of damage, made from every file."""
    rng = random.Random(0)
    for file in files:
        for damage in kinds:
            for _ in range(each):
                yield file[0], damage(rng, file, rng.choice(files))


def outcomes(
    files: Iterable[Saved],
    folder: Path,
    read: Callable[[str], str],
    suffix: str = "",
    most: float = float("inf"),
) -> Counter[tuple[str, str]]:
    """Count the outcomes of each format, read in a process that may die of it.

    A file may take ``most`` MiB.
    """
    counted: Counter[tuple[str, str]] = Counter()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=faulthandler.enable) as reader:
        before = reader.submit(start_peak).result()
        for number, (kind, content) in enumerate(files):
            path = folder / f"{number:05d}{suffix or '.' + kind.lower()}"
            path.write_bytes(content)
            try:
                counted[kind, reader.submit(read, str(path)).result(LONGEST)] += 1
            except BrokenProcessPool:
                pytest.fail(f"{path} killed the process that read it")
            except TimeoutError:
                pytest.fail(f"{path} was not read within {LONGEST} seconds")
            taken = reader.submit(peak).result() - before
            assert taken < most, f"{path} took {taken:.0f} MiB"
            path.unlink()
    return counted
