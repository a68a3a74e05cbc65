"""An object store in memory that knows the conditions of S3; its name in URLs is ``objects``.

A create-only PUT is refused where an object is, as is one that asks for another object than is
there.
"""

import errno
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

PROTOCOL = "objects"


class ObjectStore(MemoryFileSystem):
    """The filesystem ``objects://``, of this process alone."""

    protocol = (PROTOCOL, "s3")  # what knows conditions as S3 does is known by that
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    said: ClassVar[dict[str, dict[str, str]]] = {}  # metadata of objects, by name

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + str(path).removeprefix(f"{PROTOCOL}://").strip("/")

    def pipe_file(
        self,
        path: str,
        value: bytes,
        mode: str = "overwrite",
        IfMatch: str = "",
        Metadata: dict[str, str] | None = None,
        **_: Any,
    ) -> None:
        name = self._strip_protocol(path)
        if IfMatch and not (name in self.store and self.info(name)["ETag"] == IfMatch):
            raise OSError(errno.EINVAL, "PreconditionFailed", name)
        super().pipe_file(name, value, mode)
        self.said[name] = Metadata or {}

    def put_file(self, lpath: str, rpath: str, *_: Any, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes(), **options)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().info(path, **options)
        if found["type"] == "file":
            found["ETag"] = sha256(self.store[found["name"]].getvalue()).hexdigest()
        return found

    def metadata(self, path: str) -> dict[str, str]:
        return self.said.get(self._strip_protocol(path), {})


fsspec.register_implementation(PROTOCOL, ObjectStore, clobber=True)
