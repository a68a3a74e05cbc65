"""Damage to files of any format; each takes a second file to splice with."""

import random

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
