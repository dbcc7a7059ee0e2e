"""Saying that something is wrong, to everybody who is listed, once per fact."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container, Mapping, Sequence
from typing import Any

import httpx

from stores.ledger import Ledger
from trimtab.params import Alert

log = logging.getLogger("trimtab.alerts")
logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every address that it asks, and a webhook's is a secret


def raise_alert(
    ledger: Ledger, listeners: Sequence[Alert], *, id: str, kind: str, message: str, evidence: Mapping[str, Any]
) -> bool:
    """Record the alert and tell each listener; False when this very alert was raised before.

    A listener that cannot be reached does not stop the others; `deliver_waiting` tries again later.
    """
    if not ledger.record_alert(id, kind=kind, message=message, evidence=dict(evidence)):
        return False
    _deliver(ledger, listeners, {"id": id, "kind": kind, "message": message, "evidence": dict(evidence)})
    return True


def deliver_waiting(ledger: Ledger, listeners: Sequence[Alert]) -> list[str]:
    """Deliver the alerts that have not reached everybody, to those who miss them; the ids of those that did now."""
    delivered = ledger.outcomes()
    waiting = [alert for alert in ledger.alerts() if f"alert:{alert['id']}" not in delivered]
    bodies = [{key: alert[key] for key in ("id", "kind", "message", "evidence")} for alert in waiting]
    return [body["id"] for body in bodies if _deliver(ledger, listeners, body, reached=delivered)]


def _deliver(
    ledger: Ledger, listeners: Sequence[Alert], body: Mapping[str, Any], *, reached: Container[str] = frozenset()
) -> bool:
    """Tell the listeners whom *reached* does not hold; whether all know now. A repeat spares those who know."""
    work = f"alert:{body['id']}"
    names = [f"{work}:{_name(listener)}" for listener in listeners]
    told = [name in reached or _tell(listener, body) for listener, name in zip(listeners, names, strict=True)]
    if all(told):
        ledger.record_outcome(work, "delivered", owner="alerts")
        return True
    for name, knows in zip(names, told, strict=True):
        if knows:
            ledger.record_outcome(name, "delivered", owner="alerts")
    return False


def _name(listener: Alert) -> str:
    """What the ledger calls a listener, whose address may be secret."""
    address = listener.url.get_secret_value() if listener.url else ""
    return f"{listener.kind}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


def _tell(listener: Alert, body: Mapping[str, Any]) -> bool:
    if listener.kind == "webhook" and listener.url is not None:
        return _post(listener.url.get_secret_value(), body)
    log.warning("%s: %s", body["kind"], body["message"])
    return True


def _post(url: str, body: Mapping[str, Any]) -> bool:
    try:
        httpx.post(url, json=body, timeout=5.0).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.error("the alert %s could not be delivered to the webhook: %s", body["id"], type(error).__name__)
        return False
    return True
