"""Which release answers users, and the rollouts that change it.

A rollout's step and its effect on the live release are written in one transaction; primary keys let exactly one of
several writers win.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from stores.ledger import tables as t
from stores.ledger.database import Database, record, without_time
from stores.ledger.records import (
    ConflictError,
    CurrentRollout,
    LiveRelease,
    Rollout,
    RolloutObservation,
    RolloutStep,
)


class Rollouts(Database):
    """The part of the ledger about live releases and rollouts."""

    def start_rollout(
        self,
        id: str,
        *,
        release: str,
        champion_before: str | None,
        strategy: str,
        cause: str,
        policy: dict[str, Any] | None = None,
    ) -> bool:
        """Record that a rollout began, to be judged by *policy* until its end; False when it had begun before."""
        return self.add(
            t.rollouts, id=id, release=release, champion_before=champion_before, strategy=strategy, cause=cause,
            policy=policy,
        )  # fmt: skip

    def rollout(self, id: str) -> Rollout | None:
        """The rollout with this id."""
        rows = self.rows(select(t.rollouts).where(t.rollouts.c.id == id))
        return record(Rollout, rows[0]) if rows else None

    def rollouts(self) -> list[Rollout]:
        """Every rollout, oldest first."""
        return [record(Rollout, row) for row in self.rows(select(t.rollouts).order_by(t.rollouts.c.recorded_at))]

    def current_rollout(self, live: LiveRelease | None = None) -> CurrentRollout | None:
        """The open rollout with the live release and its steps; None when no challenger is being scored.

        *live* is the live release as the caller read it, where it has to be that one.
        """
        live = live or self.live()
        if live is None or live.rollout is None or live.challenger is None:
            return None
        found = self.rollout(live.rollout)
        return CurrentRollout(live, found, tuple(self.rollout_steps(found.id))) if found is not None else None

    def step_rollout(self, id: str, number: int, state: str, evidence: dict[str, Any] | None = None) -> bool:
        """Enter *state* as step *number* of the rollout: a compare-and-set, False when that step was taken."""
        return self.add(t.rollout_steps, **without_time(RolloutStep(id, number, state, evidence or {})))

    def rollout_steps(self, id: str) -> list[RolloutStep]:
        """The steps of a rollout, in order."""
        query = select(t.rollout_steps).where(t.rollout_steps.c.rollout == id).order_by(t.rollout_steps.c.number)
        return [record(RolloutStep, row) for row in self.rows(query)]

    def record_observation(self, observation: RolloutObservation) -> bool:
        """Record an observation of a rollout; False when its number was taken."""
        return self.add(t.rollout_observations, **without_time(observation))

    def last_observation(self, rollout: str) -> RolloutObservation | None:
        """The newest observation of a rollout."""
        o = t.rollout_observations
        rows = self.rows(select(o).where(o.c.rollout == rollout).order_by(o.c.number.desc()).limit(1))
        return record(RolloutObservation, rows[0]) if rows else None

    def observations(self, rollout: str) -> list[RolloutObservation]:
        """Every observation of a rollout, oldest first."""
        o = t.rollout_observations
        return [
            record(RolloutObservation, row)
            for row in self.rows(select(o).where(o.c.rollout == rollout).order_by(o.c.number))
        ]

    def live(self) -> LiveRelease | None:
        """The live release; None before the first."""
        rows = self.rows(select(t.live).order_by(t.live.c.version.desc()).limit(1))
        return record(LiveRelease, rows[0]) if rows else None

    def history(self) -> list[LiveRelease]:
        """Every live release, oldest first."""
        return [record(LiveRelease, row) for row in self.rows(select(t.live).order_by(t.live.c.version))]

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
        step: RolloutStep | None = None,
    ) -> LiveRelease:
        """Make *champion* live as version *expected* + 1 and take the rollout's *step*, in one transaction.

        *expected* is the version that the caller read last, 0 for none. Raises ConflictError when the version has
        changed since or another writer took that step, and LookupError for a release that is not in the ledger.
        """
        values = {
            "version": expected + 1, "champion": champion, "challenger": challenger,
            "challenger_share": challenger_share, "rollout": rollout, "move": move, "reason": reason, "actor": actor,
        }  # fmt: skip
        try:
            with self.transaction() as db:
                newest = db.execute(select(func.coalesce(func.max(t.live.c.version), 0))).scalar_one()
                if newest != expected:
                    raise ConflictError(expected)
                if step is not None:
                    db.execute(t.rollout_steps.insert().values(**without_time(step)))
                row = db.execute(t.live.insert().values(**values).returning(*t.live.c)).one()
        except IntegrityError as error:
            known = {row.digest for row in self.rows(select(t.releases.c.digest))}
            for digest in (champion, challenger):
                if digest is not None and digest not in known:
                    raise LookupError(f"release {digest} is not in the ledger: register it first") from error
            raise ConflictError(expected) from error
        return record(LiveRelease, row)
