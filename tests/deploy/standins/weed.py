#!/usr/bin/env python3
"""Serve S3 by moto as `weed mini` does: on port 8333, with the bucket that -bucket names."""

import sys
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import s3_backends
from werkzeug.serving import run_simple

(BUCKET,) = [word.removeprefix("-bucket=") for word in sys.argv if word.startswith("-bucket=")]
MOTO, TURN = DomainDispatcherApplication(create_backend_app), Lock()


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer one request at a time: moto looks for an object and then writes it."""
    if environ["PATH_INFO"] == "/healthz":
        start_response("200 OK", [])
        return [b""]
    with TURN:
        return MOTO(environ, start_response)


s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(BUCKET, "us-east-1")
run_simple("0.0.0.0", 8333, answer, threaded=True, request_handler=MotoRequestHandler)
