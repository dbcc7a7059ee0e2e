"""Statistics of the ledger for monitoring. The queries count in the database, because tables grow for years and the
exporter asks every few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, literal, select

from stores.ledger import tables as t
from stores.ledger.database import Database, record
from stores.ledger.records import DecisionRecord, utc

RETRAIN, MONITOR, ALERT = "retrain:", "monitor:", "alert:"
"""Prefixes of the names that operations.retrains, operations.monitoring and tasks.alerts give to work."""
TRAINED = ("promoted", "rolling out", "rejected")
"""Outcomes of a retrain that trained a model."""


@dataclass(frozen=True)
class Backlog:
    """Work without an outcome: how many pieces, and when the oldest was recorded."""

    count: int
    oldest_at: datetime | None


@dataclass(frozen=True)
class RolloutSummary:
    """A rollout and the state of its last step; `started` when it has none."""

    id: str
    release: str
    strategy: str
    state: str
    began_at: datetime
    entered_at: datetime


def newest_accepted(ledger: Database) -> str | None:
    """The label of the newest period with an accepted batch."""
    v = t.validations.c
    newest: str | None = _one(ledger, select(func.max(v.period)).where(v.accepted))
    return newest


def quarantined_since(ledger: Database, period: str | None) -> int:
    """How many periods after *period* have only quarantined batches."""
    v = t.validations.c
    query = select(func.count(v.period.distinct())).where(v.period > (period or ""))
    return int(_one(ledger, query) or 0)


def retrain_backlog(ledger: Database) -> Backlog:
    """Decisions to retrain without an outcome and without a later retrain that trained a model."""
    d, o = t.decisions.c, t.outcomes.c
    later = select(func.max(o.recorded_at)).where(o.work.startswith(RETRAIN), o.result.in_(TRAINED))
    newest: datetime | None = _one(ledger, later)
    unmet = d.recorded_at > newest if newest is not None else None
    return _backlog(ledger, t.decisions, literal(RETRAIN) + d.id, d.action == "retrain", unmet)


def monitoring_backlog(ledger: Database) -> Backlog:
    """Accepted batches that drift-monitor has not seen."""
    v = t.validations.c
    return _backlog(ledger, t.validations, literal(MONITOR) + v.period + ":" + v.digest, v.accepted)


def alert_backlog(ledger: Database) -> Backlog:
    """Alerts that have not reached every channel."""
    return _backlog(ledger, t.alerts, literal(ALERT) + t.alerts.c.id)


def last_decisions(ledger: Database) -> dict[str, tuple[int, datetime]]:
    """By action: the number of decisions, and when the last one was made."""
    d = t.decisions.c
    rows = ledger.rows(select(d.action, func.count(), func.max(d.recorded_at)).group_by(d.action))
    return {action: (int(count), utc(at)) for action, count, at in rows}


def newest_decision(ledger: Database) -> DecisionRecord | None:
    """The newest decision."""
    rows = ledger.rows(select(t.decisions).order_by(t.decisions.c.recorded_at.desc()).limit(1))
    return record(DecisionRecord, rows[0]) if rows else None


def rollouts(ledger: Database) -> list[RolloutSummary]:
    """Every rollout with its state, oldest first."""
    r, s = t.rollouts.c, t.rollout_steps.c
    last = select(s.rollout, func.max(s.number).label("number")).group_by(s.rollout).subquery()
    joined = t.rollouts.outerjoin(last, last.c.rollout == r.id).outerjoin(
        t.rollout_steps, (s.rollout == r.id) & (s.number == last.c.number)
    )
    columns = (r.id, r.release, r.strategy, s.state, r.recorded_at.label("began"), s.recorded_at.label("entered"))
    rows = ledger.rows(select(*columns).select_from(joined).order_by(r.recorded_at))
    return [
        RolloutSummary(row.id, row.release, row.strategy, row.state or "started", utc(row.began),
                utc(row.entered or row.began))
        for row in rows
    ]  # fmt: skip


def alerts_by_kind(ledger: Database) -> dict[str, int]:
    """How many alerts of each kind were raised."""
    return {kind: int(count) for kind, count in ledger.rows(select(t.alerts.c.kind, func.count()).group_by("kind"))}


def _backlog(
    ledger: Database, table: Any, work: ColumnElement[str], *conditions: ColumnElement[bool] | None
) -> Backlog:
    o = t.outcomes.c
    query = (
        select(func.count(), func.min(table.c.recorded_at))
        .select_from(table.outerjoin(t.outcomes, o.work == work))
        .where(o.work.is_(None), *(condition for condition in conditions if condition is not None))
    )
    (row,) = ledger.rows(query)
    return Backlog(int(row[0]), utc(row[1]) if row[1] is not None else None)


def _one(ledger: Database, query: Any) -> Any:
    return ledger.rows(query)[0][0]
