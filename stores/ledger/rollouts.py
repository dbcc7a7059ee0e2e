"""Who answers users, and the rollouts that change it. A step of a rollout and what it does to the live row are one
transaction, so there is never one without the other; the primary keys let exactly one of several writers win."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from stores.ledger import tables as t
from stores.ledger.database import Database, record
from stores.ledger.records import Live, Look, LostRace, Step


class Rollouts(Database):
    """The part of the ledger that is about who is live."""

    def start_rollout(
        self,
        id: str,
        *,
        release: str,
        champion_before: str | None,
        strategy: str,
        cause: str,
        terms: dict[str, Any] | None = None,
    ) -> bool:
        """A release sets out to become champion, judged by *terms* to the end; False when this rollout had started
        before."""
        return self.add(
            t.rollouts, id=id, release=release, champion_before=champion_before, strategy=strategy, cause=cause,
            terms=terms,
        )  # fmt: skip

    def rollout(self, id: str) -> dict[str, Any] | None:
        """The rollout called *id*."""
        rows = self.rows(select(t.rollouts).where(t.rollouts.c.id == id))
        return dict(rows[0]._mapping) if rows else None

    def step_rollout(self, id: str, step: int, state: str, evidence: dict[str, Any] | None = None) -> bool:
        """Enter *state* as the rollout's step number *step*: a compare-and-set, False when that step was taken."""
        return self.add(t.rollout_steps, rollout=id, step=step, state=state, evidence=evidence or {})

    def rollout_steps(self, id: str) -> list[dict[str, Any]]:
        """The steps that a rollout took, in order."""
        query = select(t.rollout_steps).where(t.rollout_steps.c.rollout == id).order_by(t.rollout_steps.c.step)
        return [dict(row._mapping) for row in self.rows(query)]

    def rollouts(self) -> list[dict[str, Any]]:
        """Every rollout, oldest first."""
        return [dict(row._mapping) for row in self.rows(select(t.rollouts).order_by(t.rollouts.c.recorded_at))]

    def record_look(self, look: Look) -> bool:
        """Somebody looked at a rollout; False when that number was taken."""
        values = {name: value for name, value in asdict(look).items() if name != "recorded_at"}
        return self.add(t.looks, **values)

    def look(self, rollout: str) -> Look | None:
        """The newest look at a rollout."""
        query = select(t.looks).where(t.looks.c.rollout == rollout).order_by(t.looks.c.number.desc()).limit(1)
        rows = self.rows(query)
        return record(Look, rows[0]) if rows else None

    def looks(self, rollout: str) -> list[Look]:
        """Every look at a rollout, oldest first."""
        query = select(t.looks).where(t.looks.c.rollout == rollout).order_by(t.looks.c.number)
        return [record(Look, row) for row in self.rows(query)]

    def live(self) -> Live | None:
        """Who answers users now; None before the first release."""
        rows = self.rows(select(t.live).order_by(t.live.c.version.desc()).limit(1))
        return record(Live, rows[0]) if rows else None

    def history(self) -> list[Live]:
        """Who was live when, and why; oldest first."""
        return [record(Live, row) for row in self.rows(select(t.live).order_by(t.live.c.version))]

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
        step: Step | None = None,
    ) -> Live:
        """Make *champion* live as version *expected* + 1, in one transaction, which takes a rollout's *step* as well.

        *expected* is the version that the caller last saw, 0 for none. Raises LostRace when it has moved since, or
        when another took that step.
        """
        values = {
            "version": expected + 1, "champion": champion, "challenger": challenger,
            "challenger_share": challenger_share, "rollout": rollout, "move": move, "reason": reason, "actor": actor,
        }  # fmt: skip
        try:
            with self.transaction() as db:
                newest = db.execute(select(func.coalesce(func.max(t.live.c.version), 0))).scalar_one()
                if newest != expected:
                    raise LostRace(expected)
                if step is not None:
                    db.execute(t.rollout_steps.insert().values(**_as_row(step)))
                row = db.execute(t.live.insert().values(**values).returning(*t.live.c)).one()
        except IntegrityError as error:
            known = {row.digest for row in self.rows(select(t.releases.c.digest))}
            for digest in (champion, challenger):
                if digest is not None and digest not in known:
                    raise LookupError(f"release {digest} is not in the ledger: register it first") from error
            raise LostRace(expected) from error
        return record(Live, row)


def _as_row(step: Step) -> dict[str, Any]:
    return {"rollout": step.rollout, "step": step.number, "state": step.state, "evidence": step.evidence}
