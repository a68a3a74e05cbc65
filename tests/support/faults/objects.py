"""An object store in a folder, behind fsspec, whose verbs go wrong when they are told to.

It has no folders, a PUT appears at once or not at all, and a create-only PUT is refused where an
object is, as is one that asks for another object than is there. Its name in URLs is ``faulty``.

Faults of a verb are of the kinds ``fail``, the request is never served; ``lost answer``, it is
served, and an error comes back; ``cut``, the connection ends in the middle of the body; ``slow``.
"""

import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from fsspec.spec import AbstractFileSystem

from tests.support.faults.calls import NO_FAULT, Fault

PROTOCOL = "faulty"
SLOW = 0.05  # seconds
WRITTEN: dict[str, dict[str, str]] = {}  # what this process said of objects that it wrote


class FaultyFileSystem(AbstractFileSystem):
    """The filesystem ``faulty://<folder>``; ``fault`` and ``notes`` are of the whole process."""

    protocol = (PROTOCOL, "s3")  # what knows conditions as S3 does is known by that
    cachable = False
    fault: Fault = NO_FAULT
    seen = 0
    notes: int | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + str(path).removeprefix(f"{PROTOCOL}://").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"{PROTOCOL}://{self._strip_protocol(name)}"

    def _serve(self, verb: str, path: str, served: Callable[[], Any]) -> Any:
        """Serve a request, or not; ``served`` does it and returns the answer."""
        cls = type(self)
        if cls.notes is not None:
            os.write(cls.notes, f"call {verb} {path}\n".encode())
        if cls.fault.verb != verb:
            return served()
        cls.seen += 1
        if not cls.fault.hits(cls.seen):
            return served()
        kind = cls.fault.kind
        if kind == "slow":
            time.sleep(SLOW)
            return served()
        if kind == "lost answer":
            served()
        raise ConnectionError(f"{kind}: {verb} {path}: the connection was reset")

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        name = Path(self._strip_protocol(path))

        def served() -> bytes:
            if not name.is_file():
                raise FileNotFoundError(path)
            content = name.read_bytes()
            return content[slice(start, end)]

        found: bytes = self._serve("get", str(name), served)
        return found

    def pipe_file(
        self,
        path: str,
        value: bytes,
        mode: str = "overwrite",
        IfMatch: str = "",
        Metadata: dict[str, str] | None = None,
        **_: Any,
    ) -> None:
        name = Path(self._strip_protocol(path))

        def served() -> None:
            if IfMatch and IfMatch != _tag(name):
                raise OSError(errno.EINVAL, "PreconditionFailed", str(name))
            name.parent.mkdir(parents=True, exist_ok=True)
            stage = name.with_name(f".put-{uuid4().hex}")
            stage.write_bytes(value)
            try:
                os.link(stage, name) if mode == "create" else stage.replace(name)
                WRITTEN[str(name)] = Metadata or {}
            finally:
                stage.unlink(missing_ok=True)

        self._serve("create" if mode == "create" else "put", str(name), served)

    def put_file(self, lpath: str, rpath: str, *_: Any, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes(), **options)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = Path(self._strip_protocol(path))

        def served() -> dict[str, Any]:
            if name.is_file():
                size = name.stat().st_size
                return {"name": str(name), "size": size, "type": "file", "ETag": _tag(name)}
            if name.is_dir() and any(each.is_file() for each in name.rglob("*")):
                return {"name": str(name), "size": 0, "type": "directory"}
            raise FileNotFoundError(path)

        found: dict[str, Any] = self._serve("info", str(name), served)
        return found

    def metadata(self, path: str) -> dict[str, str]:
        return WRITTEN.get(self._strip_protocol(path), {})

    def exists(self, path: str, **_: Any) -> bool:
        # As s3fs: only what is surely not there is not there.
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        folder = Path(self._strip_protocol(path))

        def served() -> list[dict[str, Any]]:
            if folder.is_file():
                names = [folder]
            elif folder.is_dir():
                names = sorted(each for each in folder.iterdir() if each.name[:5] != ".put-")
            else:
                raise FileNotFoundError(path)
            found = []
            for name in names:
                kind = "file" if name.is_file() else "directory"
                size = name.stat().st_size if kind == "file" else 0
                found.append({"name": str(name), "size": size, "type": kind})
            return found

        rows = self._serve("list", str(folder), served)
        return rows if detail else [row["name"] for row in rows]

    def modified(self, path: str) -> Any:
        return datetime.fromtimestamp(Path(self._strip_protocol(path)).stat().st_mtime, UTC)

    def rm_file(self, path: str) -> None:
        name = Path(self._strip_protocol(path))
        self._serve("remove", str(name), lambda: name.unlink())

    def rm(self, path: str, recursive: bool = False, maxdepth: Any = None) -> None:
        name = Path(self._strip_protocol(path))
        for each in sorted(name.rglob("*")) if recursive and name.is_dir() else [name]:
            if each.is_file():
                self.rm_file(str(each))

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Make nothing: there are no folders."""

    makedirs = mkdir

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        assert mode == "rb"
        return BytesIO(self.cat_file(path))


def _tag(name: Path) -> str:
    return sha256(name.read_bytes()).hexdigest() if name.is_file() else ""


fsspec.register_implementation(PROTOCOL, FaultyFileSystem, clobber=True)
