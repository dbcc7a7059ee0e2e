"""What every route has in common: the key, errors as JSON that say what to do, and the metrics. The only place where
errors turn into status codes."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import MutableMapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.answers import NoChampion, TooLarge
from serving.metrics import Metrics
from stores.bundles import ReleaseError, UnknownRelease
from stores.telemetry import Unwritable
from trimtab.intake import BadInput

log = logging.getLogger("trimtab.serving")
_OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})


class Busy(Exception):
    """Too many requests are waiting."""


def install(app: FastAPI, metrics: Metrics, key: SecretStr | None) -> None:
    """Give *app* the key check, the metrics and the explained errors."""

    async def explain(_: Request, error: Exception) -> Response:
        kind, response = _explained(error)
        metrics.errors.labels(kind).inc()
        return response

    async def plain(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _error(status, getattr(error, "detail", "") or "not possible")

    async def gone(_: Request, error: Exception) -> Response:
        metrics.errors.labels("client_gone").inc()
        return Response(status_code=400)

    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(ClientDisconnect, gone)
    for expected in (BadInput, TooLarge, NoChampion, Unwritable, Busy, ReleaseError, Exception):
        app.add_exception_handler(expected, explain)
    app.add_middleware(Watch, metrics=metrics, key=key.get_secret_value() if key else None)


class Watch:
    """Measures every request and refuses those without the key. Plain ASGI: it costs microseconds."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, key: str | None) -> None:
        self._app, self._metrics, self._key = app, metrics, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._key is None or scope["path"] in _OPEN_PATHS or _has_key(scope, self._key):
                await self._app(scope, receive, watched)
            else:
                self._metrics.errors.labels("key").inc()
                refusal = _error(401, "send the key as 'Authorization: Bearer …' or 'X-API-Key: …'")
                await refusal(scope, receive, watched)
        finally:
            name = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(name, status).inc()
            self._metrics.latency.labels(name).observe(time.perf_counter() - started)


def _has_key(scope: MutableMapping[str, Any], key: str) -> bool:
    headers = dict(scope["headers"])
    sent = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
    return hmac.compare_digest(sent, key.encode())


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """*content* as a response."""
    return Response(orjson.dumps(content, default=str), status, headers, media_type="application/json")


def _error(status: int, problem: str, **where: Any) -> Response:
    headers = {"Retry-After": "1"} if status == 503 else None
    return as_json({"error": {"problem": problem, **where}}, status, headers)


def _explained(error: Exception) -> tuple[str, Response]:
    """An error's kind, for the metrics, and its answer."""
    match error:
        case BadInput():
            got = error.got if isinstance(error.got, int | float | None) else str(error.got)[:200]
            return "input", _error(422, error.problem, row=error.row, field=error.field, got=got)
        case TooLarge():
            return "too_large", _error(413, str(error))
        case NoChampion():
            return "no_champion", _error(503, "no release is live: run the flow deploy (or retrain), see /ready")
        case Unwritable():
            return "telemetry", _error(503, f"not answered, as it could not be recorded: {error.reason}")
        case Busy():
            return "busy", _error(503, "too many requests are waiting")
        case UnknownRelease():
            return "release", _error(404, error.problem, release=error.digest)
        case ReleaseError():
            return "release", _error(422, str(error), release=error.digest)
        case _:
            log.error("unexpected", exc_info=error)
            return "internal", _error(500, f"unexpected {type(error).__name__}; the server's log has more")
