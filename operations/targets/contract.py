"""What every place where releases run can do. The ledger says which release answers users; a target makes sure that
the processes for it exist. Every operation is safe to repeat and to interrupt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from stores.ledger import Ledger, Rollout
from trimtab.experiment.report import STRATEGY
from trimtab.rollout.state_machine import current_state


class TargetRejected(RuntimeError):
    """The release cannot run on this target; users did not notice."""


class TargetUnavailable(TargetRejected):
    """The target does not answer at present; this says nothing against the release."""


class Target(Protocol):
    """A place where releases run."""

    def start_and_probe(self, digest: str, rollout: str) -> dict[str, Any]:
        """Run the release beside the live one and probe it; what the probe found.

        Raises TargetRejected for a release that does not run, and TargetUnavailable.
        """

    def remove(self, digest: str) -> None:
        """Remove what `start_and_probe` left of a rejected release; `reconcile` removes what this cannot."""

    def reconcile(self) -> list[str]:
        """Run what the ledger asks for and remove everything else; what was done. Raises TargetRejected."""


@dataclass(frozen=True)
class DesiredRelease:
    """The release whose processes should get the requests, and the ledger version that says so."""

    digest: str
    version: int


def desired_release(ledger: Ledger) -> DesiredRelease | None:
    """The challenger of a rollout, whose processes score the champion as well; otherwise the champion."""
    live = ledger.live()
    if live is None:
        return None
    current = ledger.current_rollout(live)
    if current is not None and current.rollout.release == live.challenger and current.state.is_challenging:
        return DesiredRelease(current.rollout.release, live.version)
    return DesiredRelease(live.champion, live.version)


def pending_rollout(ledger: Ledger) -> Rollout | None:
    """The newest rollout while its release has not been probed successfully; None when there is no such rollout.

    A rollout is no longer pending when another champion than the one that it began with is live. Experiments do not
    count, and of several rollouts only the newest does.
    """
    rollouts = [rollout for rollout in ledger.rollouts() if rollout.strategy != STRATEGY]
    if not rollouts:
        return None
    newest, live = rollouts[-1], ledger.live()
    is_superseded = (live.champion if live else None) != newest.champion_before
    state = current_state(ledger.rollout_steps(newest.id))
    return newest if state.phase in ("started", "probed") and not is_superseded else None


def pending_release(ledger: Ledger) -> str | None:
    """The release of the pending rollout; another run may be about to need its processes."""
    pending = pending_rollout(ledger)
    return pending.release if pending else None
