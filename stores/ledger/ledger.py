"""Read and write the ledger. Every write is one transaction and safe to repeat."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from stores.ledger import tables as t
from stores.ledger.database import record, without_time
from stores.ledger.datasets import Datasets
from stores.ledger.records import Alert, Claim, DecisionRecord, GateRecord, Outcome, Release
from stores.ledger.rollouts import Rollouts


class ForeignLedger(Exception):
    """The ledger belongs to another project."""

    def __init__(self, owner: str, project: str) -> None:
        super().__init__(
            f"this ledger belongs to the project {owner}, and params.yaml says {project}: give each project "
            "a ledger of its own (TRIMTAB_LEDGER_URL or TRIMTAB_POSTGRES_URL, or TRIMTAB_HOME for a stack of its own)"
        )
        self.owner, self.project = owner, project


class Ledger(Rollouts, Datasets):
    """The ledger at an SQLAlchemy *url*. Keeps one connection open and tests it before each use.

    Every method raises LedgerUnavailable when the database does not answer for *patience_s* seconds; a restarted
    database is back within some seconds.
    """

    # -- decisions, and the work that they ask for

    def record_decision(self, decision: DecisionRecord) -> bool:
        """Record a decision; False when the same one was recorded before."""
        return self.add(t.decisions, **without_time(decision))

    def decision(self, id: str) -> DecisionRecord | None:
        """The decision with this id."""
        rows = self.rows(select(t.decisions).where(t.decisions.c.id == id))
        return record(DecisionRecord, rows[0]) if rows else None

    def decisions(self) -> list[DecisionRecord]:
        """Every decision, oldest first."""
        return [record(DecisionRecord, r) for r in self.rows(select(t.decisions).order_by(t.decisions.c.recorded_at))]

    def require_project(self, project: str) -> None:
        """Make this the ledger of *project*. Raises ForeignLedger when it is that of another one."""
        if not self.claim("project", project):
            raise ForeignLedger(self.claims("project")[0].owner, project)

    def claim(self, work: str, owner: str, *, attempt: int = 1) -> bool:
        """Claim *work* for *owner*; True for its holder however often it asks, False when another holds the attempt."""
        if self.add(t.claims, work=work, attempt=attempt, owner=owner):
            return True
        held = [claim for claim in self.claims(work) if claim.attempt == attempt]
        return held[0].owner == owner

    def claims(self, work: str | None = None) -> list[Claim]:
        """The claims on *work*, or on everything, by attempt."""
        query = select(t.claims).order_by(t.claims.c.work, t.claims.c.attempt)
        if work is not None:
            query = query.where(t.claims.c.work == work)
        return [record(Claim, row) for row in self.rows(query)]

    def record_outcome(self, work: str, result: str, *, owner: str, evidence: dict[str, Any] | None = None) -> bool:
        """Record the end of *work*; only the first outcome counts."""
        return self.add(t.outcomes, work=work, result=result, owner=owner, evidence=evidence or {})

    def outcomes(self) -> dict[str, Outcome]:
        """The outcomes of finished work, by the name of the work."""
        return {row.work: record(Outcome, row) for row in self.rows(select(t.outcomes))}

    def record_gate(self, gate: GateRecord) -> bool:
        """Record the gate's result for a candidate."""
        return self.add(t.gates, **without_time(gate))

    def gate(self, run_id: str) -> GateRecord | None:
        """The gate's newest result for the candidate of MLflow run *run_id*."""
        query = select(t.gates).where(t.gates.c.run_id == run_id).order_by(t.gates.c.recorded_at.desc()).limit(1)
        rows = self.rows(query)
        return record(GateRecord, rows[0]) if rows else None

    # -- releases

    def record_release(
        self, digest: str, *, model_name: str, model_version: int, run_id: str, manifest: dict[str, Any]
    ) -> bool:
        """Record a release."""
        return self.add(
            t.releases, digest=digest, model_name=model_name, model_version=model_version, run_id=run_id,
            manifest=manifest,
        )  # fmt: skip

    def release(self, digest: str) -> Release | None:
        """The release with this digest, or the only one whose digest begins so."""
        rows = self.rows(select(t.releases).where(t.releases.c.digest.startswith(digest, autoescape=True)).limit(2))
        return record(Release, rows[0]) if len(rows) == 1 else None

    def releases(self) -> list[Release]:
        """Every release, oldest first."""
        return [record(Release, row) for row in self.rows(select(t.releases).order_by(t.releases.c.recorded_at))]

    def model_version(self, digest: str) -> int | None:
        """The MLflow model version of a release; None when the ledger does not have the release."""
        found = self.release(digest)
        return found.model_version if found is not None else None

    # -- alerts

    def record_alert(self, id: str, *, kind: str, message: str, evidence: dict[str, Any]) -> bool:
        """Record an alert; False when the same one was raised before."""
        return self.add(t.alerts, id=id, kind=kind, message=message, evidence=evidence)

    def alerts(self) -> list[Alert]:
        """Every alert, oldest first."""
        return [record(Alert, row) for row in self.rows(select(t.alerts).order_by(t.alerts.c.recorded_at))]
