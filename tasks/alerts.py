"""Raises alerts, once per fact, and delivers them to the configured channels. The ledger is the record: an alert that
has not reached every channel is delivered again later. `tasks.notifiers` sends them."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from stores.ledger import Ledger, utc
from tasks import notifiers
from trimtab.config.sections import AlertConfig

DELIVERY_LIMIT_S = 20.0
"""Longest time that the delivery of waiting alerts may take; the rest is for the next round, a minute later."""


def raise_alert(
    ledger: Ledger, listeners: Sequence[AlertConfig], *, id: str, kind: str, message: str, evidence: Mapping[str, Any]
) -> bool:
    """Record the alert and tell each listener; False when this very alert was raised before.

    A listener that cannot be reached does not stop the others, nor the caller; `deliver_pending` tries again later.
    """
    if not ledger.record_alert(id, kind=kind, message=message, evidence=dict(evidence)):
        return False
    _deliver(ledger, listeners, {"id": id, "kind": kind, "message": message, "evidence": dict(evidence)})
    return True


def deliver_pending(ledger: Ledger, listeners: Sequence[AlertConfig], *, grace: timedelta) -> list[str]:
    """Deliver alerts to the listeners that they have not reached; the ids of those that have reached all now.

    One that was recorded within *grace* is left to the run that raised it, which may be delivering it. The newest come
    first, and a listener that refuses once is skipped for the rest of the round, so that one that is gone for good
    delays nothing.
    """
    known, raised_before = ledger.outcomes(), datetime.now(UTC) - grace
    waiting = [
        alert
        for alert in reversed(ledger.alerts())
        if f"alert:{alert.id}" not in known and utc(alert.recorded_at) <= raised_before
    ]
    end, delivered, refused = time.monotonic() + DELIVERY_LIMIT_S, [], set[str]()
    for alert in waiting:
        if time.monotonic() >= end:
            break
        body = {"id": alert.id, "kind": alert.kind, "message": alert.message, "evidence": alert.evidence}
        unaware = _deliver(ledger, listeners, body, reached=known, left_alone=refused)
        refused |= unaware
        delivered += [] if unaware else [alert.id]
    return delivered


def _deliver(
    ledger: Ledger, listeners: Sequence[AlertConfig], body: Mapping[str, Any], *, reached: Container[str] = frozenset(),
    left_alone: Container[str] = frozenset(),
) -> set[str]:  # fmt: skip
    """Tell the listeners whom *reached* does not hold, but none whose name is in *left_alone*; the names of those who
    do not know now. A repeat spares those who know."""
    work = f"alert:{body['id']}"
    named = {notifiers.channel_name(listener): listener for listener in listeners}
    missing = [name for name in named if f"{work}:{name}" not in reached]
    asked = [name for name in missing if name not in left_alone]
    accepted = notifiers.notify_all([named[name] for name in asked], body)
    notified = [name for name, ok in zip(asked, accepted, strict=True) if ok]
    unaware = {*missing} - {*notified}
    for name in [f"{work}:{name}" for name in notified] if unaware else [work]:
        ledger.record_outcome(name, "delivered", owner="alerts")
    return unaware
