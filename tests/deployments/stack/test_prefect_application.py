"""The laptop's Prefect obeys programs and pages of this machine, and no other web page."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.stack.prefect_application import OwnOriginOnly

HOST = (b"host", b"127.0.0.1:4200")


def answered(scope: dict[str, Any]) -> list[dict[str, Any]]:
    """What is sent for *scope* when the application behind says 200."""
    said: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    asyncio.run(OwnOriginOnly(app)(scope, None, send))
    return said


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"evil.example"), (b"origin", b"http://evil.example")],
        [HOST, (b"origin", b"http://evil.example")],
        [HOST, (b"origin", b"null")],
        [(b"host", b"evil.example:4200")],
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_another_host_or_origin_is_refused(headers: list[tuple[bytes, bytes]], kind: str) -> None:
    (first, *_) = answered({"type": kind, "method": "POST", "headers": headers})
    assert first.get("status") == 403 or first["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", [HOST]),
        ("POST", [(b"host", b"localhost:4200"), (b"origin", b"http://localhost:4200")]),
        ("GET", [HOST, (b"sec-fetch-site", b"cross-site")]),
    ],
    ids=["a program", "its own page", "a link"],
)
def test_programs_own_pages_and_links_are_answered(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    assert answered({"type": "http", "method": method, "headers": headers})[0]["status"] == 200


def test_the_servers_start_and_stop_go_through() -> None:
    assert answered({"type": "lifespan"})[0]["status"] == 200
