"""Maps every error to an HTTP response: a status code and JSON that says what to do. No other module does this."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from serving.exceptions import BodyTimeout, MethodNotAllowed, NoLiveRelease, Overloaded, PredictTimeout, TooLarge
from serving.http.auth import ForbiddenScope, MissingKey
from serving.metrics.server import ServerMetrics
from serving.models.inference import ChampionFailed
from stores.releases.bundle import ReleaseError, UnknownRelease, UnreachableRelease
from stores.telemetry import Unwritable
from trimtab.requests.same_origin import ForeignOrigin, PageMedia
from trimtab.requests.values import BadInput

log = logging.getLogger("trimtab.serving")


@dataclass(frozen=True)
class ErrorResponse:
    """The response to an error: *kind* is the label of `trimtab_errors_total`, *body* is JSON of `schemas.ErrorBody`'s
    shape, *headers* come on top of content type and length."""

    kind: str
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def install_handlers(app: FastAPI, metrics: ServerMetrics) -> None:
    """Have *app* answer every exception by `to_response`, and FastAPI's own HTTP errors in the same JSON shape."""

    async def known_error(_: Request, error: Exception) -> Response:
        response = to_response(error)
        metrics.errors.labels(response.kind).inc()
        headers = {name.decode(): value.decode() for name, value in response.headers}
        return Response(response.body, response.status, headers, media_type="application/json")

    async def http_error(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = getattr(error, "headers", None)
        return as_json({"error": {"problem": getattr(error, "detail", "") or "not possible"}}, status, headers)

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, known_error)
    for expected in (ReleaseError, Unwritable):
        app.add_exception_handler(expected, known_error)


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """*content* as a JSON response."""
    return Response(orjson.dumps(content, default=str), status, headers, media_type="application/json")


def to_response(error: Exception) -> ErrorResponse:
    """The response to *error*; 500 with a log entry for an unexpected type."""
    for kind, respond in _RESPONSES.items():
        if isinstance(error, kind):
            return respond(error)
    log.error("unexpected", exc_info=error)
    return _response("internal", 500, f"unexpected {type(error).__name__}; the server's log has more")


def _bad_input(error: BadInput) -> ErrorResponse:
    got = error.got if isinstance(error.got, int | float | None) else str(error.got)[:200]
    return _response("input", 422, error.problem, row=error.row, field=error.field, got=got)


def _champion_failed(error: ChampionFailed) -> ErrorResponse:
    log.error("%s", error, exc_info=error.__cause__)
    return _response("model", 500, str(error))


def _retry_later(kind: str, problem: str) -> ErrorResponse:
    return _response(kind, 503, problem, headers=((b"retry-after", b"1"),))


def _response(
    kind: str, status: int, problem: str, *, headers: tuple[tuple[bytes, bytes], ...] = (), **where: Any
) -> ErrorResponse:
    return ErrorResponse(kind, status, orjson.dumps({"error": {"problem": problem, **where}}, default=str), headers)


_RESPONSES: dict[type[Exception], Callable[[Any], ErrorResponse]] = {
    BadInput: _bad_input,
    TooLarge: lambda e: _response("too_large", 413, str(e)),
    MissingKey: lambda _: _response("key", 401, "send a key as 'Authorization: Bearer …' or 'X-API-Key: …'"),
    ForbiddenScope: lambda e: _response("key", 403, str(e)),
    ForeignOrigin: lambda e: _response(
        "origin",
        403,
        f"{e}: without keys only this machine's own programs are answered; set TRIMTAB_ADMIN_KEYS to "
        "answer others, or ask by http://127.0.0.1",
    ),
    PageMedia: lambda _: _response("origin", 415, "send the body as application/json, or as an Arrow stream"),
    MethodNotAllowed: lambda _: _response("method", 405, "only POST is possible here", headers=((b"allow", b"POST"),)),
    BodyTimeout: lambda _: _response(
        "slow_body", 408, "the request's body did not arrive in time", headers=((b"connection", b"close"),)
    ),
    NoLiveRelease: lambda _: _retry_later(
        "no_champion", "no release is live: run the flow deploy (or retrain), see /ready"
    ),
    Unwritable: lambda e: _retry_later("telemetry", f"not answered, as it could not be recorded: {e.reason}"),
    Overloaded: lambda _: _retry_later("busy", "too many requests are waiting"),
    PredictTimeout: lambda e: _retry_later("time", str(e)),
    ChampionFailed: _champion_failed,
    UnknownRelease: lambda e: _response("release", 404, e.problem, release=e.digest),
    UnreachableRelease: lambda e: _retry_later("store", str(e)),
    ReleaseError: lambda e: _response("release", 422, str(e), release=e.digest),
}
