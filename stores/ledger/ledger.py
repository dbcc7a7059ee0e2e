"""Reading and writing the ledger. Every write is one transaction and safe to repeat."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from stores.ledger import tables as t
from stores.ledger.database import record, without_time
from stores.ledger.datasets import Datasets
from stores.ledger.records import Claim, Decision, Gate
from stores.ledger.rollouts import Rollouts


class Ledger(Rollouts, Datasets):
    """The ledger behind an SQLAlchemy *url*. Keeps one connection open, and tries it before each use.

    Every method raises LedgerUnavailable when the database does not answer for *patience_s*: a database that was
    restarted is back after some seconds.
    """

    # -- decisions and the work that they ask for

    def record_decision(self, decision: Decision) -> bool:
        """Monitoring concluded something; False when the same facts were judged before."""
        return self.add(t.decisions, **without_time(decision))

    def decision(self, id: str) -> Decision | None:
        """The decision called *id*."""
        rows = self.rows(select(t.decisions).where(t.decisions.c.id == id))
        return record(Decision, rows[0]) if rows else None

    def decisions(self) -> list[Decision]:
        """Every decision, oldest first."""
        return [record(Decision, r) for r in self.rows(select(t.decisions).order_by(t.decisions.c.recorded_at))]

    def claim(self, work: str, owner: str, *, attempt: int = 1) -> bool:
        """Take *work* for *owner*; False when another holds this attempt. Asking again as the holder is True."""
        if self.add(t.claims, work=work, attempt=attempt, owner=owner):
            return True
        held = [claim for claim in self.claims(work) if claim.attempt == attempt]
        return held[0].owner == owner

    def claims(self, work: str | None = None) -> list[Claim]:
        """Who holds what, by attempt."""
        query = select(t.claims).order_by(t.claims.c.work, t.claims.c.attempt)
        if work is not None:
            query = query.where(t.claims.c.work == work)
        return [record(Claim, row) for row in self.rows(query)]

    def record_outcome(self, work: str, result: str, *, owner: str, evidence: dict[str, Any] | None = None) -> bool:
        """*work* came to its end; only the first outcome counts."""
        return self.add(t.outcomes, work=work, result=result, owner=owner, evidence=evidence or {})

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Ended work by name."""
        return {row.work: dict(row._mapping) for row in self.rows(select(t.outcomes))}

    def record_gate(self, gate: Gate) -> bool:
        """A candidate was judged."""
        return self.add(t.gates, **without_time(gate))

    def gate(self, run_id: str) -> Gate | None:
        """The newest verdict on the candidate of MLflow run *run_id*."""
        query = select(t.gates).where(t.gates.c.run_id == run_id).order_by(t.gates.c.recorded_at.desc()).limit(1)
        rows = self.rows(query)
        return record(Gate, rows[0]) if rows else None

    # -- releases

    def record_release(
        self, digest: str, *, model_name: str, model_version: int, run_id: str, manifest: dict[str, Any]
    ) -> bool:
        """A release was made."""
        return self.add(
            t.releases, digest=digest, model_name=model_name, model_version=model_version, run_id=run_id,
            manifest=manifest,
        )  # fmt: skip

    def release(self, digest: str) -> dict[str, Any] | None:
        """What is known of a release; *digest* may be its first characters when they are unique."""
        rows = self.rows(select(t.releases).where(t.releases.c.digest.startswith(digest, autoescape=True)).limit(2))
        return dict(rows[0]._mapping) if len(rows) == 1 else None

    def releases(self) -> list[dict[str, Any]]:
        """Every release, oldest first."""
        return [dict(row._mapping) for row in self.rows(select(t.releases).order_by(t.releases.c.recorded_at))]

    # -- alerts

    def record_alert(self, id: str, *, kind: str, message: str, evidence: dict[str, Any]) -> bool:
        """Somebody has to know; False when this very alert was raised before."""
        return self.add(t.alerts, id=id, kind=kind, message=message, evidence=evidence)

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert, oldest first."""
        return [dict(row._mapping) for row in self.rows(select(t.alerts).order_by(t.alerts.c.recorded_at))]
