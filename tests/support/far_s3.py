"""An S3 server in a process of its own: it answers late or wrong, and costs next to nothing.

moto takes ten milliseconds of a core for each request, so that eight workers would measure moto.
It knows what slidewatch asks for: GET with ranges, HEAD, PUT, conditional ones too, LIST, and
removal. ``GET /-/requests`` gives the verbs and paths of all requests since the last such one, and
``POST /-/fault`` names the request that goes wrong next, and how, by one of `FAULTS`.
"""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from xml.sax.saxutils import escape

from aiohttp import web

from tests.support.servers import free_port, s3_at

BUCKET = "/far/"
XML = "application/xml"
DATE = "Sat, 03 Jan 2026 08:00:00 GMT"
LATE = 0.05  # seconds
SAID: dict[str, dict[str, str]] = {}  # what was said of objects that were written, by key
FAULTS = {
    "busy": "503, and nothing is done",
    "after busy": "503, and it is done a moment later, when the client has asked again",
    "lost": "it is done, and 500 comes back",
    "twice": "it is done twice, and the second answer comes back",
    "late": "it is done a moment later",
    "cut": "the connection ends in the middle of the answer",
    "half": "half of the object comes, as if that was all",
    "wrong": "a bit of the object is turned over",
}


class Objects(MutableMapping[str, bytes]):
    """Objects as files of a folder, so that a test can look at them and put others there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, key: str) -> bytes:
        try:
            return (self._folder / key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyError(key) from None

    def __setitem__(self, key: str, content: bytes) -> None:
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a link to a file of the store that was copied
        path.write_bytes(content)

    def __delitem__(self, key: str) -> None:
        (self._folder / key).unlink()

    def __iter__(self) -> Iterator[str]:
        found = (path for path in self._folder.rglob("*") if path.is_file())
        return (str(path.relative_to(self._folder)) for path in found)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _tag(content: bytes) -> str:
    return f'"{md5(content, usedforsecurity=False).hexdigest()}"'


def _listed(objects: MutableMapping[str, bytes], prefix: str, delimiter: str) -> str:
    keys = sorted(k for k in objects if k.startswith(prefix))
    below = {k[len(prefix) :].partition("/") for k in keys} if delimiter else set()
    folders = sorted({prefix + head + slash for head, slash, _ in below if slash})
    files = [k for k in keys if not delimiter or "/" not in k[len(prefix) :]]
    rows = [
        f"<Contents><Key>{escape(k)}</Key><Size>{len(objects[k])}</Size>"
        f"<LastModified>2026-01-03T08:00:00Z</LastModified><ETag>{_tag(objects[k])}</ETag>"
        "</Contents>"
        for k in files
    ]
    rows += [f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders]
    count = len(files) + len(folders)
    return (
        f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{count}</KeyCount>"
        f"{''.join(rows)}</ListBucketResult>"
    )


def _error(code: str, status: int) -> web.Response:
    text = f"<Error><Code>{code}</Code></Error>"
    return web.Response(status=status, text=text, content_type=XML)


def _done(
    objects: MutableMapping[str, bytes], request: web.Request, key: str, body: bytes
) -> web.Response:
    """Do what a request asks for, and answer it."""
    if "list-type" in request.query:
        text = _listed(objects, *(request.query.get(k, "") for k in ("prefix", "delimiter")))
        return web.Response(text=text, content_type=XML)
    if request.method == "PUT":
        there = objects.get(key)
        wanted = request.headers.get("If-Match")
        if ("If-None-Match" in request.headers and there is not None) or (
            wanted is not None and (there is None or _tag(there) != wanted)
        ):
            return _error("PreconditionFailed", 412)
        objects[key] = body
        SAID[key] = {
            k: v for k, v in request.headers.items() if k.lower().startswith("x-amz-meta-")
        }
        return web.Response(headers={"ETag": _tag(body)})
    if request.method == "DELETE":
        objects.pop(key, None)
        return web.Response(status=204)
    if request.method == "POST":  # removes several
        for name in body.decode().split("<Key>")[1:]:
            objects.pop(name.partition("</Key>")[0], None)
        return web.Response(text="<DeleteResult/>", content_type=XML)
    content = objects.get(key)
    if content is None:
        return _error("NoSuchKey", 404)
    headers = {"ETag": _tag(content), "Last-Modified": DATE, **SAID.get(key, {})}
    if request.method == "HEAD":
        headers["Content-Length"] = str(len(content))
        return web.Response(headers=headers)
    part = request.http_range
    if part.start is None and part.stop is None:
        return web.Response(body=content, headers=headers)
    start, stop, _ = part.indices(len(content))
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return web.Response(status=206, body=content[start:stop], headers=headers)


def _serve(port: int, away: float, folder: Path | None) -> None:
    objects: MutableMapping[str, bytes] = {} if folder is None else Objects(folder)
    seen: list[tuple[str, str]] = []
    fault: dict[str, Any] = {}
    behind: set[asyncio.Task[None]] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/-/requests":
            taken, seen[:] = list(seen), []
            return web.json_response(taken)
        if request.path == "/-/fault":
            fault.clear()
            fault.update(await request.json())
            await asyncio.gather(*behind)
            return web.Response()
        key = request.path.removeprefix(BUCKET)
        seen.append(("LIST" if "list-type" in request.query else request.method, key))
        body = await request.read()
        await asyncio.sleep(away)
        beyond = len(seen) - fault["at"] if fault else -1
        if beyond < 0 or beyond >= fault["times"] or beyond % fault["every"]:
            return _done(objects, request, key, body)
        kinds = fault["kinds"]
        return await wrong(request, key, body, kinds[beyond // fault["every"] % len(kinds)])

    async def wrong(request: web.Request, key: str, body: bytes, kind: str) -> web.StreamResponse:
        if kind in ("busy", "after busy"):
            if kind == "after busy":
                task = asyncio.create_task(later(request, key, body))
                behind.add(task)
                task.add_done_callback(behind.discard)
            return _error("SlowDown", 503)
        if kind == "late":
            await asyncio.sleep(LATE)
        right = _done(objects, request, key, body)
        if kind == "lost":
            return _error("InternalError", 500)
        if kind == "twice":
            return _done(objects, request, key, body)
        if kind == "cut":
            assert request.transport
            cut = web.StreamResponse(headers={"Content-Length": "1000"})
            await cut.prepare(request)
            request.transport.close()
            return cut
        content = right.body if isinstance(right.body, bytes) else b""
        if kind in ("half", "wrong") and content and request.method == "GET":
            middle = len(content) // 2
            turned = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            right.body = content[:middle] if kind == "half" else turned
        return right

    async def later(request: web.Request, key: str, body: bytes) -> None:
        await asyncio.sleep(20 * LATE)
        _done(objects, request, key, body)

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


@contextmanager
def far_s3(away: float, folder: Path | None = None) -> Iterator[str]:
    """Serve S3 ``away`` seconds from here, known to this process and those that it starts.

    Objects are kept in memory, or as files of a folder.
    """
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(port, away, folder), daemon=True
    )
    process.start()
    with s3_at(port):
        while True:
            try:
                requests()
                break
            except OSError:
                assert process.is_alive()
        try:
            yield f"s3:/{BUCKET.rstrip('/')}"
        finally:
            process.terminate()
            process.join()


def requests() -> list[tuple[str, str]]:
    """Take the verbs and paths of the requests since the last call."""
    with urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/-/requests") as answer:
        return [(verb, path) for verb, path in json.load(answer)]


def next_fault(kinds: Sequence[str], at: int, times: int = 1, every: int = 1) -> None:
    """Let requests go wrong, by kinds in turn; without kinds, let none.

    They are those from number ``at`` on since `requests`, from 1, and before ``at + times``.
    """
    fault = {"kinds": kinds, "at": at, "times": times, "every": every}
    said = json.dumps(fault if kinds else {}).encode()
    urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/-/fault", said).close()
