"""Client of the model server: load a release, probe it, read what is live. A request of a flow goes to every replica,
as a load balancer in between would pick one."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

Answer = TypeVar("Answer")
UNREACHABLE_WAIT_S = (
    10.0  # how long to wait for a replica that does not answer, or for a first one: names in DNS lag behind
)


class ServerRejected(RuntimeError):
    """The model server does not accept the release; the text says why."""


class ServerUnavailable(ServerRejected):
    """The model server cannot answer at present. This is no evidence against the release."""


class ReplicaUnreachable(ServerUnavailable):
    """No process listens at the address: the replica is starting, stopping or dead."""


@dataclass(frozen=True)
class ModelServerClient:
    """A model server's address, and the key of scope admin if it asks for one. Its text does not show the key.

    With *is_many*, every address that the URL's name stands for is a replica (several A records, as Compose gives an
    alias and Kubernetes a headless service).
    """

    url: str
    key: SecretStr | None = None
    is_many: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What opens the server."""
        return {"X-API-Key": self.key.get_secret_value()} if self.key else {}

    def replicas(self) -> list[ModelServerClient]:
        """One client per replica address; itself where there is one. Raises ReplicaUnreachable for an unknown name."""
        if not self.is_many:
            return [self]
        parts = urlsplit(self.url)
        port = parts.port or 80
        try:
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
        except OSError as error:
            raise ReplicaUnreachable(f"{self.url} has no replica: its name stands for no address ({error})") from error
        hosts = [f"[{address}]" if ":" in address else address for address in sorted(found)]
        return [replace(self, url=f"{parts.scheme}://{host}:{port}", is_many=False) for host in hosts]


def _ask_each_replica(
    server: ModelServerClient, ask: Callable[[ModelServerClient], Answer], *, away_s: float = 0.0
) -> list[Answer]:
    """Ask all replicas in parallel and return their answers; the first error is raised once all have answered. Raises
    ReplicaUnreachable when there is none, or one cannot be reached for *away_s* seconds."""
    if not server.is_many:
        return [ask(server)]
    deadline = time.monotonic() + away_s
    replicas = _retry_until(server.replicas, deadline)
    with ThreadPoolExecutor(len(replicas)) as pool:
        answers = [a for found in pool.map(partial(_ask_replica, server, ask, deadline), replicas) for a in found]
    if not answers:
        raise ReplicaUnreachable(f"{server.url} has no replica left: all that it had are gone")
    return answers


def _ask_replica(
    server: ModelServerClient, ask: Callable[[ModelServerClient], Answer], deadline: float, one: ModelServerClient
) -> list[Answer]:
    """Return the replica's answer in a list, or nothing when the name no longer resolves to it (replicas are being
    replaced)."""

    def asked() -> list[Answer]:
        try:
            return [ask(one)]
        except ReplicaUnreachable:
            if one not in server.replicas():
                return []
            raise

    return _retry_until(asked, deadline)


def _retry_until(ask: Callable[[], Answer], deadline: float) -> Answer:
    while True:
        try:
            return ask()
        except ReplicaUnreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.5)


def load(server: ModelServerClient, digest: str, *, timeout_s: float = 30.0) -> None:
    """Load the release beside the live one, in every replica. Raises ServerRejected; ServerUnavailable while a server
    or its store is away."""
    _ask_each_replica(server, lambda one: _post(one, f"/releases/{digest}/load", timeout_s), away_s=UNREACHABLE_WAIT_S)


def wait_until_ready(server: ModelServerClient, *, within_s: float, path: str = "/ready") -> bool:
    """Whether the server becomes ready within *within_s* seconds; with the path ``/health``, whether it is up."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}{path}", timeout=2.0).status_code == httpx.codes.OK:
                return True
        except httpx.HTTPError:
            pass  # it is still starting
        time.sleep(0.2)
    return False


def unready_reasons(server: ModelServerClient) -> str:
    """Return the reasons why the server is not ready, as it reports them."""
    try:
        answer = httpx.get(f"{server.url}/ready", timeout=5.0)
        return ", ".join(map(str, answer.json()["reasons"])) or "it is ready by now"
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return f"{server.url}/ready does not answer: {type(error).__name__}"


def in_flight(server: ModelServerClient) -> float:
    """Return the number of requests in flight; 0 when the server does not answer."""
    try:
        metrics = httpx.get(f"{server.url}/metrics", timeout=2.0).text
    except httpx.HTTPError:
        return 0.0
    counts = [line.split()[1] for line in metrics.splitlines() if line.startswith("trimtab_requests_in_flight ")]
    return sum(map(float, counts))


def probe(server: ModelServerClient, digest: str, *, timeout_s: float = 30.0) -> dict[str, Any]:
    """Let every replica score the release's samples and compare with the recorded predictions. Return what was found,
    with the number of replicas.

    Raises ServerRejected when predictions differ, and ServerUnavailable as `load` does.
    """
    found = _ask_each_replica(
        server, lambda one: _post(one, f"/releases/{digest}/probe", timeout_s), away_s=UNREACHABLE_WAIT_S
    )
    for one in found:
        if not one["ok"]:
            raise ServerRejected(f"the release does not answer as recorded: {one['reason']}")
    return {**found[0], "replicas": len(found)}


def live(server: ModelServerClient) -> dict[str, Any]:
    """Return the server's live state."""
    try:
        return dict(httpx.get(f"{server.url}/live", headers=server.headers, timeout=5.0).raise_for_status().json())
    except httpx.HTTPStatusError as error:
        raise ServerRejected(_refusal(error.response)) from error
    except httpx.HTTPError as error:
        raise ServerRejected(f"the model server at {server.url} does not answer: {error}") from error


def wait_for_version(server: ModelServerClient, version: int, *, within_s: float = 10.0) -> bool:
    """Whether every replica reaches the ledger's *version*, or a newer one, within *within_s* seconds."""
    try:
        return all(_ask_each_replica(server, lambda one: _reaches_version(one, version, within_s)))
    except ServerRejected:
        return False


def _reaches_version(server: ModelServerClient, version: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if int(live(server).get("ledger_version") or 0) >= version:
                return True
        except ServerRejected:
            return False
        time.sleep(0.1)
    return False


def refusal_reason(server: ModelServerClient, digest: str) -> str | None:
    """Return why a replica refuses a release, for example after a crash; None when no replica does or none answers."""
    try:
        reasons = _ask_each_replica(server, lambda one: _refusal_reason(one, digest))
    except ServerRejected:
        return None
    return next(filter(None, reasons), None)


def _refusal_reason(server: ModelServerClient, digest: str) -> str | None:
    try:
        reason = (live(server).get("refused") or {}).get(digest)
    except ServerRejected:
        return None
    return str(reason) if reason else None


def _post(server: ModelServerClient, path: str, timeout_s: float) -> dict[str, Any]:
    url = f"{server.url}{path}"
    try:
        answer = httpx.post(url, headers=server.headers, timeout=timeout_s)
    except httpx.HTTPError as error:
        is_gone = isinstance(error, httpx.NetworkError | httpx.ConnectTimeout | httpx.RemoteProtocolError)
        problem = f"{url} does not answer: {type(error).__name__}: {error}"
        raise (ReplicaUnreachable(problem) if is_gone else ServerRejected(problem)) from error
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise ServerUnavailable(_refusal(answer))
    if answer.status_code >= 400:
        raise ServerRejected(_refusal(answer))
    return dict(answer.json())


def _refusal(answer: httpx.Response) -> str:
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return (
            f"{answer.url} asks for a key of scope admin ({answer.status_code}): set TRIMTAB_SERVER_KEY, or "
            "TRIMTAB_SERVER_KEY_FILE, to one of the server's TRIMTAB_ADMIN_KEYS"
        )
    return f"{answer.url} refused with {answer.status_code}: {answer.text[:500]}"
