"""Saying that something is wrong, to everybody who is listed, once per fact."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from stores.ledger import Ledger
from trimtab.params import Alert

log = logging.getLogger("trimtab.alerts")


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
    """Deliver the alerts that were recorded and reached nobody; the ids of those that did now."""
    delivered = ledger.outcomes()
    waiting = [alert for alert in ledger.alerts() if f"alert:{alert['id']}" not in delivered]
    bodies = [{key: alert[key] for key in ("id", "kind", "message", "evidence")} for alert in waiting]
    return [body["id"] for body in bodies if _deliver(ledger, listeners, body)]


def _deliver(ledger: Ledger, listeners: Sequence[Alert], body: Mapping[str, Any]) -> bool:
    reached = True
    for listener in listeners:
        if listener.kind == "log":
            log.warning("%s: %s", body["kind"], body["message"])
        elif listener.url is not None:
            reached &= _post(listener.url.get_secret_value(), body)
    if reached:
        ledger.record_outcome(f"alert:{body['id']}", "delivered", owner="alerts")
    return reached


def _post(url: str, body: Mapping[str, Any]) -> bool:
    try:
        httpx.post(url, json=body, timeout=5.0).raise_for_status()
    except httpx.HTTPError as error:
        log.error("the alert %s could not be delivered to the webhook: %s", body["id"], type(error).__name__)
        return False
    return True
