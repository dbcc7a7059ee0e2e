"""What there is to watch in the ledger, by a few queries that count in the database: tables grow for years, and
somebody asks every few seconds. What a number means to whoever is on call is `deployments.exporter`'s business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, literal, select

from stores.ledger import tables as t
from stores.ledger.database import Database, record
from stores.ledger.records import Decision

RETRAIN, MONITOR, ALERT = "retrain:", "monitor:", "alert:"
"""How flows.retrain, flows.drift_monitor and tasks.alerts name the work whose outcome is awaited."""
TRAINED = ("promoted", "rolling out", "rejected")
"""Outcomes of a retrain that did train."""


@dataclass(frozen=True)
class Owed:
    """Work without an outcome: how much, and since when the oldest waits."""

    count: int
    since: datetime | None


@dataclass(frozen=True)
class Rollout:
    """A rollout and the last step that it took; "started" when it took none."""

    id: str
    release: str
    strategy: str
    state: str
    began_at: datetime
    entered_at: datetime


def newest_accepted(ledger: Database) -> str | None:
    """The label of the newest period with an accepted batch."""
    checks = t.batch_checks.c
    newest: str | None = _one(ledger, select(func.max(checks.period)).where(checks.accepted))
    return newest


def quarantined_since(ledger: Database, period: str | None) -> int:
    """How many periods after *period* have only batches that were refused."""
    checks = t.batch_checks.c
    query = select(func.count(checks.period.distinct())).where(checks.period > (period or ""))
    return int(_one(ledger, query) or 0)


def owed_retrains(ledger: Database) -> Owed:
    """Decisions to retrain that no run has finished, and that no later retrain has made good."""
    d, o = t.decisions.c, t.outcomes.c
    later = select(func.max(o.recorded_at)).where(o.work.startswith(RETRAIN), o.result.in_(TRAINED))
    newest: datetime | None = _one(ledger, later)
    unmet = d.recorded_at > newest if newest is not None else None
    return _owed(ledger, t.decisions, literal(RETRAIN) + d.id, d.action == "retrain", unmet)


def owed_monitoring(ledger: Database) -> Owed:
    """Accepted batches that nobody has looked at."""
    checks = t.batch_checks.c
    return _owed(ledger, t.batch_checks, literal(MONITOR) + checks.period + ":" + checks.digest, checks.accepted)


def undelivered_alerts(ledger: Database) -> Owed:
    """Alerts that have not reached everybody who listens."""
    return _owed(ledger, t.alerts, literal(ALERT) + t.alerts.c.id)


def last_decisions(ledger: Database) -> dict[str, tuple[int, datetime]]:
    """By action: how many decisions there were, and when the last one was made."""
    d = t.decisions.c
    rows = ledger.rows(select(d.action, func.count(), func.max(d.recorded_at)).group_by(d.action))
    return {action: (int(count), moment(at)) for action, count, at in rows}


def newest_decision(ledger: Database) -> Decision | None:
    """The decision that was made last."""
    rows = ledger.rows(select(t.decisions).order_by(t.decisions.c.recorded_at.desc()).limit(1))
    return record(Decision, rows[0]) if rows else None


def rollouts(ledger: Database) -> list[Rollout]:
    """Every rollout with where it stands, oldest first."""
    r, s = t.rollouts.c, t.rollout_steps.c
    last = select(s.rollout, func.max(s.step).label("step")).group_by(s.rollout).subquery()
    joined = t.rollouts.outerjoin(last, last.c.rollout == r.id).outerjoin(
        t.rollout_steps, (s.rollout == r.id) & (s.step == last.c.step)
    )
    columns = (r.id, r.release, r.strategy, s.state, r.recorded_at.label("began"), s.recorded_at.label("entered"))
    rows = ledger.rows(select(*columns).select_from(joined).order_by(r.recorded_at))
    return [
        Rollout(row.id, row.release, row.strategy, row.state or "started", moment(row.began),
                moment(row.entered or row.began))
        for row in rows
    ]  # fmt: skip


def alerts_by_kind(ledger: Database) -> dict[str, int]:
    """How many alerts of each kind were raised."""
    return {kind: int(count) for kind, count in ledger.rows(select(t.alerts.c.kind, func.count()).group_by("kind"))}


def moment(at: datetime) -> datetime:
    """*at* with its zone; SQLite gives none, and means UTC."""
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _owed(ledger: Database, table: Any, work: ColumnElement[str], *conditions: ColumnElement[bool] | None) -> Owed:
    o = t.outcomes.c
    query = (
        select(func.count(), func.min(table.c.recorded_at))
        .select_from(table.outerjoin(t.outcomes, o.work == work))
        .where(o.work.is_(None), *(condition for condition in conditions if condition is not None))
    )
    (row,) = ledger.rows(query)
    return Owed(int(row[0]), moment(row[1]) if row[1] is not None else None)


def _one(ledger: Database, query: Any) -> Any:
    return ledger.rows(query)[0][0]
