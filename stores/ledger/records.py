"""What the ledger hands out: one frozen record per kind of fact, and its errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


class LedgerUnavailable(ConnectionError):
    """The ledger's database does not answer."""


class LostRace(RuntimeError):
    """Somebody else moved who is live first.

    *expected* is the version that the caller had seen.
    """

    def __init__(self, expected: int) -> None:
        super().__init__(f"the live release is no longer at ledger version {expected}: look again and decide anew")
        self.expected = expected


@dataclass(frozen=True)
class BatchCheck:
    """What validation concluded about one batch."""

    period: str
    digest: str
    schema: str
    accepted: bool
    reason: str
    rows_good: int
    rows_bad: int
    evidence: dict[str, Any] = field(default_factory=dict)
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Decision:
    """What monitoring concluded for a period. *id* is the same whenever the same facts are judged again."""

    id: str
    period: str
    release: str
    action: str
    cause: str
    evidence: dict[str, Any]
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Gate:
    """A candidate's verdict against the champion on the same rows."""

    id: str
    run_id: str
    champion: str | None
    passed: bool
    reason: str
    evidence: dict[str, Any]
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Claim:
    """A flow run's hold on a piece of work."""

    work: str
    attempt: int
    owner: str
    recorded_at: datetime


@dataclass(frozen=True)
class Live:
    """Who answers users since *recorded_at*, and why."""

    version: int
    champion: str
    challenger: str | None
    challenger_share: float
    rollout: str | None
    move: str
    reason: str
    actor: str
    recorded_at: datetime


@dataclass(frozen=True)
class Step:
    """A rollout's step, to be taken together with what it does to the live row."""

    rollout: str
    number: int
    state: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What somebody saw who looked at a rollout, and what it amounts to."""

    rollout: str
    number: int
    state: str
    answers: int
    labels: int
    verdict: str
    evidence: dict[str, Any]
    recorded_at: datetime | None = None
