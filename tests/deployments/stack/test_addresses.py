"""What processes of the stack get to know of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deployments.stack.addresses import without_proxy
from trimtab.config.settings import Settings


def test_own_servers_are_asked_without_the_users_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    settings = Settings(mlflow_url="http://mlflow.team:5000", store_endpoint="http://objects.team:8333")
    for value in without_proxy(settings).values():
        assert {"intranet.example", "127.0.0.1", "localhost", "mlflow.team", "objects.team"} <= set(value.split(","))


@pytest.mark.parametrize("client", ["httpx", "requests", "urllib.request"])
def test_http_clients_go_by_it(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a proxy that is nowhere, a server that is nowhere too is what cannot be reached."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name, value in without_proxy(Settings()).items():
        monkeypatch.setenv(name, value)
    asked = {
        "httpx": "import httpx; c = httpx.Client(); print(c._transport_for_url(httpx.URL(URL)) is c._transport)",
        "requests": "import requests.utils as u; print(not u.get_environ_proxies(URL))",
        "urllib.request": "import urllib.request as u; print(bool(u.proxy_bypass_environment('127.0.0.1:4200')))",
    }[client]
    said = subprocess.run(
        [sys.executable, "-c", f"URL = 'http://127.0.0.1:4200/api'; {asked}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "True"
