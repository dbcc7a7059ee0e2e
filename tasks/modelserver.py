"""The model server, over HTTP: load a release beside the live one, probe it, see who answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr


class ServerRefused(RuntimeError):
    """The model server would not take a release; *problem* says why."""


@dataclass(frozen=True)
class Server:
    """A model server's address, and the key of scope admin if it asks for one. Its text does not show the key."""

    url: str
    key: SecretStr | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What opens the server."""
        return {"X-API-Key": self.key.get_secret_value()} if self.key else {}


def load(server: Server, digest: str, *, timeout_s: float = 30.0) -> None:
    """Have the release loaded beside the live one. Raises ServerRefused."""
    _post(server, f"/releases/{digest}/load", timeout_s)


def ready(server: Server, *, within_s: float, path: str = "/ready") -> bool:
    """Whether the server can answer users within that time; with the path ``/health``, whether it is there at all."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}{path}", timeout=2.0).status_code == httpx.codes.OK:
                return True
        except httpx.HTTPError:
            pass  # it is still starting
        time.sleep(0.2)
    return False


def unready(server: Server) -> str:
    """Why it cannot answer users, as it says itself."""
    try:
        answer = httpx.get(f"{server.url}/ready", timeout=5.0)
        return ", ".join(map(str, answer.json()["reasons"])) or "it is ready by now"
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return f"{server.url}/ready does not answer: {type(error).__name__}"


def in_flight(server: Server) -> float:
    """How many requests it is answering now; none when it does not say."""
    try:
        told = httpx.get(f"{server.url}/metrics", timeout=2.0).text
    except httpx.HTTPError:
        return 0.0
    counts = [line.split()[1] for line in told.splitlines() if line.startswith("trimtab_requests_in_flight ")]
    return sum(map(float, counts))


def probe(server: Server, digest: str, *, timeout_s: float = 30.0) -> dict[str, Any]:
    """Health, and the release's own samples through the whole path against the recorded predictions.

    Raises ServerRefused when the answers differ.
    """
    found = _post(server, f"/releases/{digest}/probe", timeout_s)
    if not found["ok"]:
        raise ServerRefused(f"the release does not answer as recorded: {found['reason']}")
    return found


def live(server: Server) -> dict[str, Any]:
    """Who answers there now."""
    try:
        return dict(httpx.get(f"{server.url}/live", headers=server.headers, timeout=5.0).raise_for_status().json())
    except httpx.HTTPStatusError as error:
        raise ServerRefused(_refusal(error.response)) from error
    except httpx.HTTPError as error:
        raise ServerRefused(f"the model server at {server.url} does not answer: {error}") from error


def wait_until_followed(server: Server, version: int, *, within_s: float = 10.0) -> bool:
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


def refused(server: Server, digest: str) -> str | None:
    """Why the server will not have a release, as after one that killed it; None when it does, or does not answer."""
    try:
        reason = (live(server).get("refused") or {}).get(digest)
    except ServerRefused:
        return None
    return str(reason) if reason else None


def _post(server: Server, path: str, timeout_s: float) -> dict[str, Any]:
    url = f"{server.url}{path}"
    try:
        answer = httpx.post(url, headers=server.headers, timeout=timeout_s)
    except httpx.HTTPError as error:
        raise ServerRefused(f"{url} does not answer: {type(error).__name__}: {error}") from error
    if answer.status_code >= 400:
        raise ServerRefused(_refusal(answer))
    return dict(answer.json())


def _refusal(answer: httpx.Response) -> str:
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return (
            f"{answer.url} asks for a key of scope admin ({answer.status_code}): set TRIMTAB_SERVER_KEY, or "
            "TRIMTAB_SERVER_KEY_FILE, to one of the server's TRIMTAB_ADMIN_KEYS"
        )
    return f"{answer.url} refused with {answer.status_code}: {answer.text[:500]}"
