"""The model server, over HTTP: load a release beside the live one, probe it, see who answers."""

from __future__ import annotations

import time
from typing import Any

import httpx


class ServerRefused(RuntimeError):
    """The model server would not take a release; *problem* says why."""


def load(server: str, digest: str, *, timeout_s: float = 30.0) -> None:
    """Have the release loaded beside the live one. Raises ServerRefused."""
    _post(f"{server}/releases/{digest}/load", timeout_s)


def probe(server: str, digest: str, *, timeout_s: float = 30.0) -> dict[str, Any]:
    """Health, and the release's own samples through the whole path against the recorded predictions.

    Raises ServerRefused when the answers differ.
    """
    found = _post(f"{server}/releases/{digest}/probe", timeout_s)
    if not found["ok"]:
        raise ServerRefused(f"the release does not answer as recorded: {found['reason']}")
    return found


def live(server: str) -> dict[str, Any]:
    """Who answers there now."""
    try:
        return dict(httpx.get(f"{server}/live", timeout=5.0).raise_for_status().json())
    except httpx.HTTPError as error:
        raise ServerRefused(f"the model server at {server} does not answer: {error}") from error


def wait_until_followed(server: str, version: int, *, within_s: float = 10.0) -> bool:
    """Whether the server stands at the ledger's *version*, or a newer one, within that time. It follows by itself;
    one that does not answer will find out when it is back."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if int(live(server).get("ledger_version") or 0) >= version:
                return True
        except ServerRefused:
            return False
        time.sleep(0.1)
    return False


def refused(server: str, digest: str) -> str | None:
    """Why the server will not have a release, as after one that killed it; None when it does, or does not answer."""
    try:
        reason = (live(server).get("refused") or {}).get(digest)
    except ServerRefused:
        return None
    return str(reason) if reason else None


def _post(url: str, timeout_s: float) -> dict[str, Any]:
    try:
        answer = httpx.post(url, timeout=timeout_s)
    except httpx.HTTPError as error:
        raise ServerRefused(f"{url} does not answer: {type(error).__name__}: {error}") from error
    if answer.status_code >= 400:
        raise ServerRefused(f"{url} refused with {answer.status_code}: {answer.text[:500]}")
    return dict(answer.json())
