"""The records that the ledger returns, one frozen type per kind of fact, and its errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trimtab.rollout.state_machine import RolloutState, current_state


class LedgerUnavailable(ConnectionError):
    """The ledger's database does not answer."""


class ConflictError(RuntimeError):
    """Another writer changed *what* (the live release, the dataset) after this one had read version *expected*."""

    def __init__(self, expected: int, what: str = "the live release") -> None:
        super().__init__(f"{what} is no longer at ledger version {expected}: read it again and decide again")
        self.expected, self.what = expected, what

    def __reduce__(self) -> tuple[type[ConflictError], tuple[int, str]]:
        return type(self), (self.expected, self.what)


@dataclass(frozen=True)
class ValidationRecord:
    """The result of validating one batch against a schema (by its digest)."""

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
class DatasetRecord:
    """A dataset version: DVC's *hash*, the text of `data.dvc` (*pointer*), and the period that made it."""

    hash: str
    pointer: str
    period: str
    cause: str
    git_commit: str | None
    recorded_at: datetime


@dataclass(frozen=True)
class DatasetHead:
    """The newest dataset version since *recorded_at*: DVC's *hash*, and the text of `data.dvc` (*pointer*).

    *cause* says what happened to the rows of *period*: `landed`, `accepted`, `quarantined`, `found` or `by hand`.
    """

    version: int
    hash: str
    pointer: str
    period: str
    cause: str
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Landing:
    """A batch landed as the *number*-th of its period.

    *objects* are the bucket objects that it was read from, as [key, etag, size]; empty for other sources.
    """

    period: str
    number: int
    digest: str
    source: str
    objects: list[list[Any]] = field(default_factory=list)
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class DecisionRecord:
    """A decision of monitoring for a period. The same facts always give the same *id*."""

    id: str
    period: str
    release: str
    action: str
    cause: str
    evidence: dict[str, Any]
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class GateRecord:
    """The gate's result for the candidate of an MLflow run against a champion (None: there was none)."""

    id: str
    run_id: str
    champion: str | None
    passed: bool
    reason: str
    evidence: dict[str, Any]
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Claim:
    """The flow run *owner* does the *work*; *attempt* counts from 1."""

    work: str
    attempt: int
    owner: str
    recorded_at: datetime


@dataclass(frozen=True)
class Outcome:
    """The *result* of finished *work*, and the flow run that finished it."""

    work: str
    result: str
    owner: str
    evidence: dict[str, Any]
    recorded_at: datetime


@dataclass(frozen=True)
class Alert:
    """A message for people about something that went wrong."""

    id: str
    kind: str
    message: str
    evidence: dict[str, Any]
    recorded_at: datetime


@dataclass(frozen=True)
class Release:
    """A release: the digest of its bundle, and the MLflow run and model version that it was made from."""

    digest: str
    model_name: str
    model_version: int
    run_id: str
    manifest: dict[str, Any]
    recorded_at: datetime


@dataclass(frozen=True)
class LiveRelease:
    """The release that answers users since *recorded_at* (the champion), and the challenger beside it, if any.

    *challenger_share* is the share of the keys, 0 to 1, that the challenger answers.
    """

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
class Rollout:
    """A release on its way to champion, or the B of an experiment.

    *strategy* is `rollout`, `switch` or `experiment`. *policy* holds the rules that it is judged by until its end; it
    is None for the first release, which has no champion to be compared with.
    """

    id: str
    release: str
    champion_before: str | None
    strategy: str
    cause: str
    policy: dict[str, Any] | None
    recorded_at: datetime


@dataclass(frozen=True)
class RolloutStep:
    """The *number*-th state of a rollout, counted from 1, and the evidence that led to it."""

    rollout: str
    number: int
    state: str
    evidence: dict[str, Any] = field(default_factory=dict)
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class RolloutObservation:
    """What telemetry said of a rollout when it was observed for the *number*-th time with something new.

    *pairs* are rows that both models scored, *labels* those of them with a label.
    """

    rollout: str
    number: int
    state: str
    pairs: int
    labels: int
    verdict: str
    evidence: dict[str, Any]
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class CurrentRollout:
    """The open rollout: the one whose challenger is scored beside the champion now.

    In probation the challenger is the previous champion, so it differs from `rollout.release`.
    """

    live: LiveRelease
    rollout: Rollout
    steps: tuple[RolloutStep, ...]

    @property
    def state(self) -> RolloutState:
        """The state that the steps add up to."""
        return current_state(self.steps)


def utc(moment: datetime) -> datetime:
    """*moment* with its time zone; SQLite returns none and means UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
