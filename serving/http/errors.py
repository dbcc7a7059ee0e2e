"""The only place where errors turn into status codes: each into JSON that says what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from serving.http.auth import NoKey, WrongKey
from serving.http.refusals import Busy, NoChampion, NotAllowed, SlowBody, TooLarge, TooSlow
from serving.metrics.server import Metrics
from serving.models.inference import ChampionFailed
from stores.releases.bundle import ReleaseError, UnknownRelease, UnreachableRelease
from stores.telemetry import Unwritable
from trimtab.requests.parser import BadInput

log = logging.getLogger("trimtab.serving")
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Refusal:
    """An error as it is answered. *kind* is for the metrics."""

    kind: str
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def install(app: FastAPI, metrics: Metrics) -> None:
    """Give *app* the explained errors."""

    async def explain(_: Request, error: Exception) -> Response:
        refusal = explained(error)
        metrics.errors.labels(refusal.kind).inc()
        headers = {name.decode(): value.decode() for name, value in refusal.headers}
        return Response(refusal.body, refusal.status, headers, media_type="application/json")

    async def plain(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = getattr(error, "headers", None)
        return as_json({"error": {"problem": getattr(error, "detail", "") or "not possible"}}, status, headers)

    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(Exception, explain)
    for expected in (ReleaseError, Unwritable):
        app.add_exception_handler(expected, explain)


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """*content* as a response."""
    return Response(orjson.dumps(content, default=str), status, headers, media_type="application/json")


def explained(error: Exception) -> Refusal:
    """What somebody who asked is told of *error*."""
    for kind, tell in _TOLD.items():
        if isinstance(error, kind):
            return tell(error)
    log.error("unexpected", exc_info=error)
    return _refusal("internal", 500, f"unexpected {type(error).__name__}; the server's log has more")


def _bad_input(error: BadInput) -> Refusal:
    got = error.got if isinstance(error.got, int | float | None) else str(error.got)[:200]
    return _refusal("input", 422, error.problem, row=error.row, field=error.field, got=got)


def _champion_failed(error: ChampionFailed) -> Refusal:
    log.error("%s", error, exc_info=error.__cause__)
    return _refusal("model", 500, str(error))


def _later(kind: str, problem: str) -> Refusal:
    return _refusal(kind, 503, problem, headers=((b"retry-after", b"1"),))


def _refusal(
    kind: str, status: int, problem: str, *, headers: tuple[tuple[bytes, bytes], ...] = (), **where: Any
) -> Refusal:
    return Refusal(kind, status, orjson.dumps({"error": {"problem": problem, **where}}, default=str), headers)


_TOLD: dict[type[Exception], Callable[[Any], Refusal]] = {
    BadInput: _bad_input,
    TooLarge: lambda e: _refusal("too_large", 413, str(e)),
    NoKey: lambda _: _refusal("key", 401, "send a key as 'Authorization: Bearer …' or 'X-API-Key: …'"),
    WrongKey: lambda e: _refusal("key", 403, str(e)),
    NotAllowed: lambda _: _refusal("method", 405, "only POST is possible here", headers=((b"allow", b"POST"),)),
    SlowBody: lambda _: _refusal(
        "slow_body", 408, "the request's body did not arrive in time", headers=((b"connection", b"close"),)
    ),
    NoChampion: lambda _: _later("no_champion", "no release is live: run the flow deploy (or retrain), see /ready"),
    Unwritable: lambda e: _later("telemetry", f"not answered, as it could not be recorded: {e.reason}"),
    Busy: lambda _: _later("busy", "too many requests are waiting"),
    TooSlow: lambda e: _later("time", str(e)),
    ChampionFailed: _champion_failed,
    UnknownRelease: lambda e: _refusal("release", 404, e.problem, release=e.digest),
    UnreachableRelease: lambda e: _later("store", str(e)),
    ReleaseError: lambda e: _refusal("release", 422, str(e), release=e.digest),
}
