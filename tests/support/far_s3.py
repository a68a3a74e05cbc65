"""An S3 server for benchmarks, in a process of its own: it answers late, and costs next to nothing.

moto takes ten milliseconds of a core for each request, so that eight workers would measure moto.
It knows what slidewatch asks for: GET with ranges, HEAD, PUT, conditional ones too, LIST, and
removal. ``GET /-/requests`` gives the verbs and paths of all requests since the last such one.
"""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from urllib.request import urlopen
from xml.sax.saxutils import escape

from aiohttp import web

from tests.support.servers import free_port, s3_at

BUCKET = "/far/"
XML = "application/xml"
DATE = "Sat, 03 Jan 2026 08:00:00 GMT"


def _serve(port: int, away: float) -> None:
    objects: dict[str, bytes] = {}
    seen: list[tuple[str, str]] = []

    def tag(content: bytes) -> str:
        return f'"{md5(content, usedforsecurity=False).hexdigest()}"'

    def listed(prefix: str, delimiter: str) -> str:
        keys = sorted(k for k in objects if k.startswith(prefix))
        below = {k[len(prefix) :].partition("/") for k in keys} if delimiter else set()
        folders = sorted({prefix + head + slash for head, slash, _ in below if slash})
        files = [k for k in keys if not delimiter or "/" not in k[len(prefix) :]]
        rows = [
            f"<Contents><Key>{escape(k)}</Key><Size>{len(objects[k])}</Size>"
            f"<LastModified>2026-01-03T08:00:00Z</LastModified><ETag>{tag(objects[k])}</ETag>"
            "</Contents>"
            for k in files
        ]
        rows += [f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders]
        count = len(files) + len(folders)
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{count}</KeyCount>"
            f"{''.join(rows)}</ListBucketResult>"
        )

    def gone(code: str, status: int) -> web.Response:
        text = f"<Error><Code>{code}</Code></Error>"
        return web.Response(status=status, text=text, content_type=XML)

    async def answer(request: web.Request) -> web.Response:
        key = request.path.removeprefix(BUCKET)
        if request.path == "/-/requests":
            taken, seen[:] = list(seen), []
            return web.json_response(taken)
        is_list = "list-type" in request.query
        seen.append(("LIST" if is_list else request.method, key))
        body = await request.read()
        await asyncio.sleep(away)
        if is_list:
            text = listed(request.query.get("prefix", ""), request.query.get("delimiter", ""))
            return web.Response(text=text, content_type=XML)
        if request.method == "PUT":
            there = objects.get(key)
            wanted = request.headers.get("If-Match")
            if ("If-None-Match" in request.headers and there is not None) or (
                wanted is not None and (there is None or tag(there) != wanted)
            ):
                return gone("PreconditionFailed", 412)
            objects[key] = body
            return web.Response(headers={"ETag": tag(body)})
        if request.method == "DELETE":
            objects.pop(key, None)
            return web.Response(status=204)
        if request.method == "POST":  # removes several
            for name in body.decode().split("<Key>")[1:]:
                objects.pop(name.partition("</Key>")[0], None)
            return web.Response(text="<DeleteResult/>", content_type=XML)
        if key not in objects:
            return gone("NoSuchKey", 404)
        content, headers = objects[key], {"ETag": tag(objects[key]), "Last-Modified": DATE}
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(content))
            return web.Response(headers=headers)
        part = request.http_range
        if part.start is None and part.stop is None:
            return web.Response(body=content, headers=headers)
        start, stop, _ = part.indices(len(content))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return web.Response(status=206, body=content[start:stop], headers=headers)

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


@contextmanager
def far_s3(away: float) -> Iterator[str]:
    """Serve S3 ``away`` seconds from here, known to this process and those that it starts."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(port, away), daemon=True
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
