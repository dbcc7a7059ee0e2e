"""The ASGI application that uvicorn calls. It answers the frequent paths without a framework and forwards all others to
FastAPI. API keys, limits of size and time, and the metrics of all routes are applied here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.exceptions import BodyTimeout, MethodNotAllowed, Overloaded, TooLarge
from serving.http.auth import ApiKeys
from serving.http.errors import ErrorResponse, to_response
from serving.metrics.server import ServerMetrics
from trimtab.requests.same_origin import check_same_origin

Message = Any
Scope = Any
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_READ_FACTOR = 4  # a body of up to this many times the limit is read to its end before it is rejected
_JSON = b"application/json"
_NONE: tuple[tuple[bytes, bytes], ...] = ()


class ClientDisconnected(Exception):
    """The client closed the connection before it had an answer."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request's body and the headers Content-Type and Accept; size and key are checked."""

    body: bytes
    content_type: bytes
    accept: bytes


Handler = Callable[[RawRequest], Awaitable[tuple[bytes, bytes]]]  # returns the answer and its media type


class FastPath:
    """The whole application: *handlers* answer POST requests at their paths, *app* answers all others.

    One body may have *max_body_bytes*, all bodies in memory together *max_held_bytes*; a body has to arrive within
    *body_s* seconds.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        handlers: Mapping[str, Handler],
        *,
        keys: ApiKeys,
        metrics: ServerMetrics,
        max_body_bytes: int,
        max_held_bytes: int,
        body_s: float,
    ) -> None:
        self._app, self._handlers, self._keys, self._metrics = app, dict(handlers), keys, metrics
        self._max_body, self._max_held, self._body_s = max_body_bytes, max_held_bytes, body_s
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass the server's start and stop on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        handler = self._handlers.get(path)
        if handler is None:
            await self._forward(scope, receive, send, started)
            return
        self._metrics.requests.in_flight += 1
        try:
            await self._handle(scope, receive, send, handler, started)
        finally:
            self._metrics.requests.in_flight -= 1

    async def _handle(self, scope: Scope, receive: Receive, send: Send, handler: Handler, started: float) -> None:
        status, headers, body, path = 200, _NONE, b"", scope["path"]
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed
            self._admit(scope)
            body = await self._body(receive)
            self._held += len(body)
            if self._held > self._max_held:
                raise Overloaded
            answer, media = await handler(_raw_request(body, scope["headers"]))
        except ClientDisconnected:
            self._metrics.errors.labels("client_gone").inc()
            return
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            response = self._error_response(error)
            status, answer, media, headers = response.status, response.body, _JSON, response.headers
        finally:
            self._held -= len(body)
        length = str(len(answer)).encode()
        start = [(b"content-type", media), (b"content-length", length), *headers]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": answer})
        self._metrics.requests.observe(path, status, time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        """Without keys, requests of other origins are refused; with keys, those without one."""
        if self._keys.required:
            self._keys.check(scope["path"], scope["headers"])
        else:
            check_same_origin(scope["headers"], is_safe=scope["method"] in ("GET", "HEAD"))

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            return await self._rest(bytearray(body), receive)
        if len(body) > self._max_body:
            raise self._too_large()
        return body

    async def _rest(self, body: bytearray, receive: Receive) -> bytes:
        """Read a body that arrives in several pieces. A body of up to four times the limit is read to its end but not
        kept, as most clients read the response only after that."""
        held = len(body)
        self._held += held
        try:
            async with asyncio.timeout(self._body_s):
                received, more = len(body), True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnected
                    more, chunk = message.get("more_body", False), message.get("body", b"")
                    received += len(chunk)
                    if received <= self._max_body:
                        body += chunk
                        held += len(chunk)
                        self._held += len(chunk)
                    elif received > self._max_body * _READ_FACTOR:
                        break
                    if self._held > self._max_held:
                        raise Overloaded
        except TimeoutError as error:
            raise BodyTimeout from error
        finally:
            self._held -= held
        if received > self._max_body:
            raise self._too_large()
        return bytes(body)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"more than {self._max_body / 2**20:g} MB in one request (TRIMTAB_MAX_BODY_MB)")

    def _error_response(self, error: Exception) -> ErrorResponse:
        response = to_response(error)
        self._metrics.errors.labels(response.kind).inc()
        return response

    async def _forward(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        status, started_response = 500, False

        async def watched_send(message: Message) -> None:
            nonlocal status, started_response
            if message["type"] == "http.response.start":
                status, started_response = message["status"], True
            await send(message)

        try:
            self._admit(scope)
            await self._app(scope, receive, watched_send)
        except Exception as error:
            if started_response:
                raise
            response = self._error_response(error)
            start = [(b"content-type", _JSON), (b"content-length", str(len(response.body)).encode()), *response.headers]
            await watched_send({"type": "http.response.start", "status": response.status, "headers": start})
            await watched_send({"type": "http.response.body", "body": response.body})
        finally:
            name = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.observe(name, status, time.perf_counter() - started)


def _raw_request(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> RawRequest:
    content_type = accept = b""
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"accept":
            accept = value
    return RawRequest(body, content_type, accept)
