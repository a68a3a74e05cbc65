"""Admit only the person who was given the address, and forms only from this server's pages.

Any page in the person's browser can send requests to this machine. It cannot read the token in the
address, nor say that it is this server (``Origin``), nor reach it by another name (``Host``: DNS
rebinding).
"""

import secrets
from collections.abc import Collection

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

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


def guarded(app: ASGIApp, token: str, hosts: Collection[str]) -> ASGIApp:
    """Guard an application: its addresses begin with a token, and forms come from its own pages.

    ``hosts`` are the names and ports under which it is reached, such as ``127.0.0.1:8077``.
    """
    origins = {f"http://{host}" for host in hosts}

    def refusal(request: Request) -> tuple[str, int] | None:
        path, headers = request.scope["path"], request.headers
        first = path.lstrip("/").partition("/")[0]
        if not secrets.compare_digest(first.encode(), token.encode()):
            return "not found: use the address that the command has printed", 404
        if len(path) > MOST_PATH:
            return "this address is too long", 414
        if request.method in {"GET", "HEAD"}:
            return None
        if headers.get("origin") not in origins:
            return "this server accepts forms only from its own pages", 403
        # In chunks a form may send more than it announces.
        announced = int(headers.get("content-length") or MOST_BODY + 1)
        if announced > MOST_BODY or "transfer-encoding" in headers:
            return "this form is too long", 413
        return None

    async def answer(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if (refused := refusal(request)) is not None:
            return PlainTextResponse(f"{refused[0]}\n", refused[1])
        request.scope["root_path"] += f"/{token}"
        response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    names = [host.rpartition(":")[0] for host in hosts]
    return TrustedHostMiddleware(BaseHTTPMiddleware(app, answer), names, www_redirect=False)
