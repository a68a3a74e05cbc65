"""Folders and archives of given members."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

Write = Callable[[Path, Mapping[str, bytes]], None]


def write_folder(target: Path, members: Mapping[str, bytes]) -> None:
    for name, content in members.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_zip(target: Path, members: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def write_tar(mode: str, prefix: str = "") -> Write:
    def write(target: Path, members: Mapping[str, bytes]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(target, mode) as file:
            for name, content in members.items():
                info = tarfile.TarInfo(prefix + name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))

    return write


KINDS: dict[str, tuple[str, Write]] = {
    "folder": ("night", write_folder),
    "zip": ("night.zip", write_zip),
    "tar": ("night.tar", write_tar("w")),
    "tar of .": ("night.tar", write_tar("w", "./")),
    "tar.gz": ("night.tar.gz", write_tar("w:gz")),
    "tgz": ("night.tgz", write_tar("w:gz")),
    "tar.bz2": ("night.tar.bz2", write_tar("w:bz2")),
    "tar.xz": ("night.tar.xz", write_tar("w:xz")),
    "TAR.GZ": ("NIGHT.TAR.GZ", write_tar("w:gz")),
}
