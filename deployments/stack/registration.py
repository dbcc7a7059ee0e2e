"""Registers the deployments and automations with Prefect when the code or the settings have changed."""

import json
import sys
import time
import urllib.error
import urllib.request
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from deployments.stack import components, probes
from deployments.stack.addresses import environment
from deployments.stack.plan import CODE, Component, Probe, StackError
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from trimtab.config import params
from trimtab.config.settings import Settings

_SERVER_WITHIN_S = 120.0
_ROOMS = ("trimtab", "stores", "tasks", "operations", "flows", "deployments")


def main() -> None:
    """Migrate the ledger, and register what `deployments.definitions` lists unless that was done; safe to repeat."""
    settings = Settings()
    memory = settings.state / "registered.json"
    key = fingerprint(settings)
    known = json.loads(memory.read_text()) if memory.exists() else {}
    is_registered = known.get("fingerprint") == key
    if not is_registered:
        memory.unlink(missing_ok=True)
        import_module("deployments.definitions")
    _wait_for_prefect(settings)
    if settings.ledger_url is not None:
        ledger = Ledger(settings.ledger_url.get_secret_value())
        migrate(ledger)
        ledger.require_project(params.load(settings.root).project.name)
    if is_registered and _counts(settings) == known["counts"]:
        print("nothing has changed since the deployments were registered")
        return

    from deployments.definitions import register

    memory.unlink(missing_ok=True)
    register(settings)
    memory.write_text(json.dumps({"fingerprint": key, "counts": _counts(settings)}))


def fingerprint(settings: Settings) -> str:
    """One digest over all that decides how deployments look: our code, the project's params, the place."""
    files = sorted(path for room in _ROOMS for path in (CODE / room).rglob("*.py"))
    digest = sha256(json.dumps([sys.executable, str(CODE), environment(settings)], sort_keys=True).encode())
    for path in [*files, settings.root / "params.yaml", CODE / "requirements.lock"]:
        digest.update(str(path).encode())
        digest.update(_content(path))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b"missing"


def _counts(settings: Settings) -> dict[str, Any] | None:
    """How many deployments and automations Prefect has: some may have been deleted by hand."""
    try:
        return {kind: _post(f"{settings.prefect_api}/{kind}/count") for kind in ("deployments", "automations")}
    except (urllib.error.URLError, ValueError):
        return None


def _post(url: str) -> Any:
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"})
    with probes.DIRECT.open(request, timeout=10) as answer:
        return json.load(answer)


def _wait_for_prefect(settings: Settings) -> None:
    server = Component("prefect", (), Probe("http", components.health_url(settings, "prefect")))
    deadline = time.monotonic() + _SERVER_WITHIN_S
    while trouble := probes.probe(server, 0.0, timeout_s=5.0):
        if time.monotonic() > deadline:
            raise StackError(f"Prefect is not there, so nothing can be registered: {trouble}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
