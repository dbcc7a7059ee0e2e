"""What the ledger hands out: one frozen record per kind of fact, and its errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


class LedgerUnavailable(ConnectionError):
    """The ledger's database does not answer."""


class LostRace(RuntimeError):
    """Somebody else moved *what* (who is live, which dataset version is the newest) first.

    *expected* is the version that the caller had seen.
    """

    def __init__(self, expected: int, what: str = "the live release") -> None:
        super().__init__(f"{what} is no longer at ledger version {expected}: look again and decide anew")
        self.expected, self.what = expected, what

    def __reduce__(self) -> tuple[type[LostRace], tuple[int, str]]:
        return type(self), (self.expected, self.what)


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
class Head:
    """Which dataset version is the newest since *recorded_at*: DVC's *hash*, and the text of `data.dvc` (*pointer*).
    *cause* is what the rows of *period* had come to."""

    version: int
    hash: str
    pointer: str
    period: str
    cause: str
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Landing:
    """A batch landed as the *number*-th of its period. *objects* are those that it was made of, as [key, etag, size],
    where the source is a bucket."""

    period: str
    number: int
    digest: str
    source: str
    objects: list[list[Any]] = field(default_factory=list)
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
