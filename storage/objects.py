"""Write to object stores, where a PUT is atomic and may have a condition."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

TRIES = 3
ONE_PUT = 2 * 1024**3  # bytes of a part: a file of less than twice this size is one PUT


def one_request(fs: Any) -> dict[str, Any]:
    """Return the options with which s3fs reads an object without asking for its size first."""
    return {"max_concurrency": 1} if is_conditional(fs) else {}


def name_refused(fs: Any) -> None:
    """Let errors name the object that an S3 server refuses; it answers "Forbidden" alone."""
    kind = type(fs)
    if not hasattr(kind, "_call_s3"):
        return

    async def named(method: str, *given: Any, **options: Any) -> Any:
        try:
            return await kind._call_s3(fs, method, *given, **options)
        except PermissionError as error:
            place = [options[name] for name in ("Bucket", "Key", "Prefix") if options.get(name)]
            raise PermissionError(errno.EACCES, str(error), f"s3://{'/'.join(place)}") from error

    fs._call_s3 = named


def put(fs: Any, stage: Path, target: str, once: bool) -> None:
    """Put a file; with ``once``, FileExistsError if one is there."""
    if not once:
        fs.put_file(str(stage), target)
        return
    ours = {"writer": uuid4().hex}
    options = {"Metadata": ours} if is_conditional(fs) else {}
    try:
        fs.pipe_file(target, stage.read_bytes(), mode="create", **options)
    except OSError as error:
        fs.invalidate_cache()
        # Not every S3 server refuses in a way that s3fs turns into a FileExistsError.
        if not (isinstance(error, FileExistsError) or fs.exists(target)):
            raise
        # If the answer to a first attempt was lost, the client's next one meets our own object.
        if not options or fs.metadata(target) != ours:
            raise FileExistsError(target) from None


def put_fenced(fs: Any, stage: Path, target: str, once: bool, check: Callable[[], None]) -> None:
    """Put a file unless another run has taken over, even at the last moment.

    The object's tag is read, then the lease is checked, then the PUT is made conditional on that
    tag: whatever a successor has written since has another tag, so a late PUT is refused. Other
    filesystems have only the check. With ``once``, FileExistsError if the target exists.
    """
    if once or not is_conditional(fs):
        check()
        put(fs, stage, target, once)
        return
    for left in reversed(range(TRIES)):
        tag = tag_of(fs, target)
        check()
        try:
            put_if(fs, stage, target, tag)
        except OSError:
            if tag_of(fs, target) == tag:
                raise
            check()
            # The lease is still ours: a stalled run wrote in between, or the answer to our own
            # first attempt was lost.
            if not left:
                raise
        else:
            return


def is_conditional(fs: Any) -> bool:
    """Return whether a filesystem supports a PUT that is conditional on a tag."""
    protocol = fs.protocol
    return "s3" in ((protocol,) if isinstance(protocol, str) else protocol)


def put_if(fs: Any, stage: Path, target: str, tag: str | None) -> None:
    """Put a file if the object has this tag (None: if there is no object); else OSError."""
    condition = {"mode": "create"} if tag is None else {"IfMatch": tag}
    fs.put_file(str(stage), target, chunksize=ONE_PUT, **condition)


def tag_of(fs: Any, target: str) -> str | None:
    """Look up an object's tag, which changes with its content; None if there is no object."""
    fs.invalidate_cache()
    try:
        info = fs.info(target)
    except FileNotFoundError:
        return None
    return info.get("ETag") if info["type"] == "file" else None
