"""Reading and writing the ledger. Every write is one transaction and safe to repeat."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Table, create_engine, event, func, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import NullPool

from stores.ledger import tables as t
from stores.ledger.records import BatchCheck, Claim, Decision, Gate, LedgerUnavailable, Live, LostRace

R = TypeVar("R", BatchCheck, Claim, Decision, Gate, Live)


def _record(kind: type[R], row: Row[Any]) -> R:
    known = kind.__dataclass_fields__
    return kind(**{name: value for name, value in row._mapping.items() if name in known})


class Ledger:
    """The ledger behind an SQLAlchemy *url*. Keeps one connection open, and tries it before each use.

    Every method raises LedgerUnavailable when the database does not answer for *patience_s*: a database that was
    restarted is back after some seconds.
    """

    def __init__(self, url: str, *, patience_s: float = 0.0) -> None:
        self._patience_s = patience_s
        if url.startswith("postgresql"):
            self._engine = create_engine(url, connect_args={"connect_timeout": 5}, pool_pre_ping=True)
        else:  # an open file goes on answering after it was taken away
            self._engine = create_engine(url, poolclass=NullPool)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _hold_references)

    def create(self) -> None:
        """Make the tables that are missing; safe when several processes do it at once."""
        with self._transaction() as db:
            if db.dialect.name == "postgresql":
                db.execute(text("SELECT pg_advisory_xact_lock(7301)"))
            t.metadata.create_all(db)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._connected() as db, db.begin():
                yield db
        except OperationalError as error:
            where, why = self._engine.url.render_as_string(hide_password=True), " ".join(str(error.orig).split())
            raise LedgerUnavailable(
                f"the ledger at {where} does not answer: {why}; `trimtab status` shows its database"
            ) from error

    def _connected(self) -> Connection:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._engine.connect()
            except OperationalError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.2)

    def _add(self, table: Table, **values: Any) -> bool:
        """Insert a fact; False when it was recorded before."""
        try:
            with self._transaction() as db:
                db.execute(table.insert().values(**values))
        except IntegrityError:
            key = [column == values[column.name] for column in table.primary_key]
            if not self._rows(select(table).where(*key)):
                raise
            return False
        return True

    def _rows(self, query: Any) -> Sequence[Row[Any]]:
        with self._transaction() as db:
            return db.execute(query).all()

    # -- batches and dataset versions

    def record_batch(self, period: str, digest: str, *, rows: int, source: str) -> bool:
        """A batch landed; False when the very same one had landed before."""
        return self._add(t.batches, period=period, digest=digest, rows=rows, source=source)

    def record_check(self, check: BatchCheck) -> bool:
        """A batch was accepted or quarantined under a schema."""
        return self._add(t.batch_checks, **_without_time(check))

    def checks(self, period: str | None = None) -> list[BatchCheck]:
        """Validation's conclusions, oldest first."""
        query = select(t.batch_checks).order_by(t.batch_checks.c.recorded_at)
        if period is not None:
            query = query.where(t.batch_checks.c.period == period)
        return [_record(BatchCheck, row) for row in self._rows(query)]

    def record_dataset(
        self, hash: str, *, pointer: str, period: str, cause: str, git_commit: str | None = None
    ) -> bool:
        """A dataset version came to be."""
        return self._add(t.datasets, hash=hash, pointer=pointer, period=period, cause=cause, git_commit=git_commit)

    def datasets(self) -> list[dict[str, Any]]:
        """Every dataset version, oldest first."""
        return [dict(row._mapping) for row in self._rows(select(t.datasets).order_by(t.datasets.c.recorded_at))]

    # -- decisions and the work that they ask for

    def record_decision(self, decision: Decision) -> bool:
        """Monitoring concluded something; False when the same facts were judged before."""
        return self._add(t.decisions, **_without_time(decision))

    def decision(self, id: str) -> Decision | None:
        """The decision called *id*."""
        rows = self._rows(select(t.decisions).where(t.decisions.c.id == id))
        return _record(Decision, rows[0]) if rows else None

    def decisions(self) -> list[Decision]:
        """Every decision, oldest first."""
        return [_record(Decision, r) for r in self._rows(select(t.decisions).order_by(t.decisions.c.recorded_at))]

    def claim(self, work: str, owner: str, *, attempt: int = 1) -> bool:
        """Take *work* for *owner*; False when another holds this attempt. Asking again as the holder is True."""
        if self._add(t.claims, work=work, attempt=attempt, owner=owner):
            return True
        held = [claim for claim in self.claims(work) if claim.attempt == attempt]
        return held[0].owner == owner

    def claims(self, work: str | None = None) -> list[Claim]:
        """Who holds what, by attempt."""
        query = select(t.claims).order_by(t.claims.c.work, t.claims.c.attempt)
        if work is not None:
            query = query.where(t.claims.c.work == work)
        return [_record(Claim, row) for row in self._rows(query)]

    def record_outcome(self, work: str, result: str, *, owner: str, evidence: dict[str, Any] | None = None) -> bool:
        """*work* came to its end; only the first outcome counts."""
        return self._add(t.outcomes, work=work, result=result, owner=owner, evidence=evidence or {})

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Ended work by name."""
        return {row.work: dict(row._mapping) for row in self._rows(select(t.outcomes))}

    def record_gate(self, gate: Gate) -> bool:
        """A candidate was judged."""
        return self._add(t.gates, **_without_time(gate))

    def gate(self, run_id: str) -> Gate | None:
        """The newest verdict on the candidate of MLflow run *run_id*."""
        query = select(t.gates).where(t.gates.c.run_id == run_id).order_by(t.gates.c.recorded_at.desc()).limit(1)
        rows = self._rows(query)
        return _record(Gate, rows[0]) if rows else None

    # -- releases and who is live

    def record_release(
        self, digest: str, *, model_name: str, model_version: int, run_id: str, manifest: dict[str, Any]
    ) -> bool:
        """A release was made."""
        return self._add(
            t.releases, digest=digest, model_name=model_name, model_version=model_version, run_id=run_id,
            manifest=manifest,
        )  # fmt: skip

    def release(self, digest: str) -> dict[str, Any] | None:
        """What is known of a release; *digest* may be its first characters when they are unique."""
        rows = self._rows(select(t.releases).where(t.releases.c.digest.startswith(digest, autoescape=True)).limit(2))
        return dict(rows[0]._mapping) if len(rows) == 1 else None

    def releases(self) -> list[dict[str, Any]]:
        """Every release, oldest first."""
        return [dict(row._mapping) for row in self._rows(select(t.releases).order_by(t.releases.c.recorded_at))]

    def start_rollout(self, id: str, *, release: str, champion_before: str | None, strategy: str, cause: str) -> bool:
        """A release sets out to become champion; False when this rollout had started before."""
        return self._add(
            t.rollouts, id=id, release=release, champion_before=champion_before, strategy=strategy, cause=cause
        )

    def step_rollout(self, id: str, step: int, state: str, evidence: dict[str, Any] | None = None) -> bool:
        """Enter *state* as the rollout's step number *step*: a compare-and-set, False when that step was taken."""
        return self._add(t.rollout_steps, rollout=id, step=step, state=state, evidence=evidence or {})

    def rollout_steps(self, id: str) -> list[dict[str, Any]]:
        """The steps that a rollout took, in order."""
        query = select(t.rollout_steps).where(t.rollout_steps.c.rollout == id).order_by(t.rollout_steps.c.step)
        return [dict(row._mapping) for row in self._rows(query)]

    def rollouts(self) -> list[dict[str, Any]]:
        """Every rollout, oldest first."""
        return [dict(row._mapping) for row in self._rows(select(t.rollouts).order_by(t.rollouts.c.recorded_at))]

    def live(self) -> Live | None:
        """Who answers users now; None before the first release."""
        rows = self._rows(select(t.live).order_by(t.live.c.version.desc()).limit(1))
        return _record(Live, rows[0]) if rows else None

    def history(self) -> list[Live]:
        """Who was live when, and why; oldest first."""
        return [_record(Live, row) for row in self._rows(select(t.live).order_by(t.live.c.version))]

    def switch(
        self,
        champion: str,
        *,
        expected: int,
        move: str,
        reason: str,
        actor: str,
        rollout: str | None = None,
        challenger: str | None = None,
        challenger_share: float = 0.0,
    ) -> Live:
        """Make *champion* live as version *expected* + 1, in one transaction.

        *expected* is the version that the caller last saw, 0 for none. Raises LostRace when it has moved since.
        """
        values = {
            "version": expected + 1, "champion": champion, "challenger": challenger,
            "challenger_share": challenger_share, "rollout": rollout, "move": move, "reason": reason, "actor": actor,
        }  # fmt: skip
        try:
            with self._transaction() as db:
                newest = db.execute(select(func.coalesce(func.max(t.live.c.version), 0))).scalar_one()
                if newest != expected:
                    raise LostRace(expected)
                row = db.execute(t.live.insert().values(**values).returning(*t.live.c)).one()
        except IntegrityError as error:
            known = {row.digest for row in self._rows(select(t.releases.c.digest))}
            for digest in (champion, challenger):
                if digest is not None and digest not in known:
                    raise LookupError(f"release {digest} is not in the ledger: register it first") from error
            raise LostRace(expected) from error
        return _record(Live, row)

    # -- alerts

    def record_alert(self, id: str, *, kind: str, message: str, evidence: dict[str, Any]) -> bool:
        """Somebody has to know; False when this very alert was raised before."""
        return self._add(t.alerts, id=id, kind=kind, message=message, evidence=evidence)

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert, oldest first."""
        return [dict(row._mapping) for row in self._rows(select(t.alerts).order_by(t.alerts.c.recorded_at))]


def _hold_references(connection: Any, _record: object) -> None:
    """SQLite checks that a release exists only when it is told to."""
    connection.execute("PRAGMA foreign_keys = ON")


def _without_time(record: Any) -> dict[str, Any]:
    values = asdict(record)
    values.pop("recorded_at")
    return values
