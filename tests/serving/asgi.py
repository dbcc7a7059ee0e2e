"""A model server in this process, called as uvicorn calls it, so that requests can arrive at the same moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import orjson

from serving.app import ModelServer
from serving.settings import ServerSettings
from stores.releases.store import ReleaseStore
from tests.serving.conftest import ServerHome

Answered = tuple[int, Any]


def server_of(place: ServerHome, **settings: Any) -> ModelServer:
    """A server with *place*'s ledger and releases that has read the ledger once; its threads do not run."""
    made = ModelServer(
        ServerSettings(ledger_url=f"sqlite:///{place.home}/ledger.db", **settings),
        release_store=ReleaseStore(place.home / "releases"),
        telemetry=place.telemetry,
    )
    made.follower.run_once()
    return made


async def ask(
    server: ModelServer, path: str, content: Any, headers: Mapping[str, str] | None = None, *, method: str = "POST"
) -> Answered:
    """Send one request; returns its status and its JSON (or bytes, if it is not JSON)."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    listed = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": listed,
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2),
    }  # fmt: skip
    await server.app(scope, receive, send)
    answer = b"".join(m.get("body", b"") for m in said[1:])
    return said[0]["status"], orjson.loads(answer) if answer[:1] == b"{" else answer


def together(server: ModelServer, path: str, contents: list[Any], **options: Any) -> list[Answered]:
    """Send requests at the same moment; returns their answers."""

    async def all_of_them() -> list[Answered]:
        return await asyncio.gather(*(ask(server, path, content, **options) for content in contents))

    return asyncio.run(all_of_them())


def metric(server: ModelServer, name: str, **labels: str) -> float:
    """A metric's value now; 0 when there is none."""
    return server.metrics.registry.get_sample_value(name, labels) or 0.0


__all__ = ["ask", "metric", "server_of", "together"]
