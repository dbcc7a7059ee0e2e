"""Saying that something is wrong, to everybody who is listed, once per fact. The ledger is the record: an alert that
has not reached everybody is delivered later. How receivers are reached is `tasks.receivers`' business."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from typing import Any

from stores.ledger import Ledger
from tasks import receivers
from trimtab.params import Alert

ROUND_S = 20.0
"""Longest time that the delivery of waiting alerts may take; the rest is for the next round, a minute later."""


def raise_alert(
    ledger: Ledger, listeners: Sequence[Alert], *, id: str, kind: str, message: str, evidence: Mapping[str, Any]
) -> bool:
    """Record the alert and tell each listener; False when this very alert was raised before.

    A listener that cannot be reached does not stop the others, nor the caller; `deliver_waiting` tries again later.
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
    end = time.monotonic() + ROUND_S
    return [
        body["id"] for body in bodies if time.monotonic() < end and _deliver(ledger, listeners, body, reached=delivered)
    ]


def _deliver(
    ledger: Ledger, listeners: Sequence[Alert], body: Mapping[str, Any], *, reached: Container[str] = frozenset()
) -> bool:
    """Tell the listeners whom *reached* does not hold; whether all know now. A repeat spares those who know."""
    work = f"alert:{body['id']}"
    missing = {f"{work}:{receivers.name_of(listener)}": listener for listener in listeners}
    missing = {name: listener for name, listener in missing.items() if name not in reached}
    told = receivers.tell([*missing.values()], body)
    if all(told):
        ledger.record_outcome(work, "delivered", owner="alerts")
        return True
    for name, knows in zip(missing, told, strict=True):
        if knows:
            ledger.record_outcome(name, "delivered", owner="alerts")
    return False
