"""Prefect's server for one machine: the application of Prefect, which has no password here and would obey any web page
that a browser on this machine shows, behind a check of Host and Origin."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from trimtab.requests.same_origin import ForeignOrigin, check_same_origin

Application = Callable[[Any, Any, Any], Awaitable[None]]


class OwnOriginOnly:
    """An ASGI application that refuses requests and WebSockets of other hosts and origins, and passes the rest on."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or pass the server's start and stop on."""
        if scope["type"] in ("http", "websocket"):
            headers = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
            try:
                check_same_origin(headers, is_safe=scope.get("method") in ("GET", "HEAD"))
            except ForeignOrigin as error:
                await _refuse(scope, send, str(error))
                return
        await self._app(scope, receive, send)


async def _refuse(scope: Any, send: Any, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why[:100]})
        return
    body = json.dumps({"detail": f"{why}: this Prefect answers programs and pages of this machine only"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def create_app() -> Application:
    """Prefect's application; uvicorn's factory."""
    from prefect.server.api.server import create_app as prefect

    return OwnOriginOnly(prefect())
