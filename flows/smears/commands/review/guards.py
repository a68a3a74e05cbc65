"""Admit only the person who was given the address, and forms only from this server's pages.

Any page in the person's browser can send requests to this machine. It cannot read the token in the
address, nor say that it is this server (``Origin``), nor reach it by another name (``Host``: DNS
rebinding).
"""

import secrets
from collections.abc import Iterable

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",  # a form's Origin would be null without any referrer
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MOST_BODY = 10_000  # bytes of a form
MOST_PATH = 1_000  # characters of an address; Python reads no number of 5,000 digits


class Guarded:
    """An application whose addresses begin with a token, for requests from its own pages.

    Args:
        app: the guarded application; it sees addresses without the token.
        token: the first part of every address.
        hosts: names and ports under which the server is reached, such as ``127.0.0.1:8077``.
        scheme: ``http`` or ``https``.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str], scheme: str) -> None:
        self._app, self._token = app, token
        self._origins = {f"{scheme}://{host}".encode() for host in hosts}
        names = [host.rpartition(":")[0] for host in hosts]
        self._by_name = TrustedHostMiddleware(self._answer, names, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in one line."""
        if scope["type"] == "websocket":
            # None of the pages opens one; closed before it is accepted, it is answered by 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._by_name(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        prefix = f"/{self._token}"
        inner = dict(scope)
        inner["root_path"] = scope.get("root_path", "") + prefix
        await self._app(inner, _bounded(receive), _with_headers(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if scope["type"] != "http":
            return 400, "this server speaks only HTTP"
        headers = dict(scope["headers"])
        first = scope["path"].lstrip("/").partition("/")[0]
        if not secrets.compare_digest(first.encode(), self._token.encode()):
            return 404, "not found: use the address that the command has printed"
        if len(scope["path"]) > MOST_PATH:
            return 414, "this address is too long"
        if scope["method"] not in {"GET", "HEAD"}:
            if headers.get(b"origin") not in self._origins:
                return 403, "this server accepts forms only from its own pages"
            if int(headers.get(b"content-length") or MOST_BODY + 1) > MOST_BODY:
                return 413, "this form is too long"
        return None


def _bounded(receive: Receive) -> Receive:
    """Pass on at most `MOST_BODY` bytes of a form: a request may send more than it announces."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > MOST_BODY else message

    return bounded


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in known
                ),
            ]
        await send(message)

    return wrapped


async def _refuse(send: Send, status: int, text: str) -> None:
    kind = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
