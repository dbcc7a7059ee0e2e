"""The journey of a challenger: where a rollout stands, what was seen of it, and the step that follows. Nothing here
reads telemetry or a clock; how evidence is weighed is `trimtab.rollout.sequential_test`'s business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field

from trimtab.config.fields import Duration
from trimtab.model.release import Label, Task
from trimtab.rollout.config import Rules

State = Literal[
    "started", "probed", "shadow", "canary", "champion", "rolled back", "closed", "reverted", "experiment", "ended"
]
ON_TRIAL: frozenset[State] = frozenset({"shadow", "canary"})
OVER: frozenset[State] = frozenset({"rolled back", "closed", "reverted", "ended"})


class Terms(Rules):
    """What a rollout is judged by until its end: the rules of its first day, and what they apply to."""

    task: Task
    classes: dict[str, tuple[Label, ...]] = Field({}, description="per release, the labels that it knows")
    metric: str | None = Field(None, description="the gate's, by which blocks of time are judged")
    metric_margin: float = Field(0.0, description="the gate's max_regression: how much of it may be lost")
    metric_slices: dict[str, float] = Field({}, description="the gate's margins for the columns of slices")
    cap: float | None = Field(None, description="regression: absolute error at which a loss is 1, in target units")


class Seen(BaseModel):
    """What telemetry says of a rollout up to now."""

    model_config = ConfigDict(frozen=True)

    pairs: int = Field(0, description="answers that both models gave")
    exposed: int = Field(0, description="answers of the release on trial that users got")
    labels: int = Field(0, description="pairs with a label, as far as they count in the present state")
    elapsed: Duration = Field(timedelta(0), description="data time that went by on trial, or in court")
    verdict: Literal["promote", "roll back", "keep collecting"] = "keep collecting"
    reason: str = "no labels yet"
    suspected: bool = Field(
        False, description="single labels speak against it, and blocks of time have not decided yet"
    )
    broken: tuple[str, ...] = Field((), description="guardrails that broke, in words")
    labels_until: str | None = Field(None, description="when the newest of these labels arrived")
    evidence: dict[str, Any] = Field({}, description="the verdict's numbers")


@dataclass(frozen=True)
class Standing:
    """Where a rollout stands. *exposed_before* is how many answers users had got when this state began."""

    state: State
    share: float
    steps: int
    exposed_before: int = 0
    labels_until: str | None = None

    @property
    def on_trial(self) -> bool:
        """Whether it is still open who will be champion."""
        return self.state in ON_TRIAL

    @property
    def in_court(self) -> bool:
        """Whether late labels can still revert the promotion."""
        return self.state == "champion"

    @property
    def words(self) -> str:
        """The state as people read it."""
        return f"canary {self.share:.0%}" if self.state == "canary" else self.state


@dataclass(frozen=True)
class Move:
    """The step to take: *share* of the keys goes to the release on trial, *reason* is for people."""

    state: State
    share: float
    reason: str


class Step(Protocol):
    """A step that a rollout took, as the ledger keeps it."""

    @property
    def number(self) -> int:
        """Counted from 1."""

    @property
    def state(self) -> str:
        """The state that it entered."""

    @property
    def evidence(self) -> Mapping[str, Any]:
        """`share`, `exposed`, `labels_until` and more, where they apply."""


def standing(steps: Sequence[Step]) -> Standing:
    """Where the rollout with these *steps*, in order, stands."""
    if not steps:
        return Standing("started", 0.0, 0)
    last = steps[-1]
    return Standing(
        cast(State, last.state), float(last.evidence.get("share", 0.0)), last.number,
        int(last.evidence.get("exposed", 0)), last.evidence.get("labels_until"),
    )  # fmt: skip


def follow(at: Standing, seen: Seen, terms: Terms) -> Move | None:
    """The step that *seen* asks for; None while there is not enough to go on. Safety first: a guardrail or a verdict
    against the release ends the trial before anything speaks for it."""
    if at.in_court:
        return _in_court(seen, terms)
    if not at.on_trial:
        return None
    if seen.broken:
        return Move("rolled back", 0.0, "; ".join(seen.broken))
    if seen.verdict == "roll back":
        return Move("rolled back", 0.0, seen.reason)
    if seen.elapsed >= terms.horizon:
        return _at_the_horizon(seen, terms)
    if seen.suspected:  # both go on scoring everything, so nothing is lost by keeping users away from it
        return Move("shadow", 0.0, f"back to the shadow: {seen.reason}") if at.share else None
    return _onward(at, seen, terms)


def _in_court(seen: Seen, terms: Terms) -> Move | None:
    if seen.broken:
        return Move("reverted", 0.0, "; ".join(seen.broken))
    if seen.verdict == "roll back":
        return Move("reverted", 0.0, f"labels that came after the promotion: {seen.reason}")
    if seen.elapsed >= terms.court:
        return Move("closed", 1.0, f"{seen.labels:,} later labels say nothing against it")
    return None


def _at_the_horizon(seen: Seen, terms: Terms) -> Move:
    if seen.verdict == "promote":
        return Move("champion", 1.0, seen.reason)
    undecided = f"undecided after {terms.horizon.days} days of data and {seen.labels:,} labels ({seen.reason})"
    if terms.on_inconclusive == "promote" and not seen.suspected:
        return Move("champion", 1.0, f"{undecided}: promoted, as on_inconclusive says")
    return Move("rolled back", 0.0, f"{undecided}: the champion stays, as on_inconclusive says")


def _onward(at: Standing, seen: Seen, terms: Terms) -> Move | None:
    larger = [share for share in terms.steps if share > at.share]
    if at.state == "shadow" and terms.steps:
        is_ready = seen.pairs >= terms.min_answers and seen.labels >= terms.min_labels
        why = f"{seen.pairs:,} answers in the shadow and {seen.labels:,} labels show nothing against it"
        return Move("canary", larger[0], why) if is_ready else None
    answered = seen.exposed - at.exposed_before
    if answered < terms.min_answers and at.state == "canary":
        return None
    if larger:
        return Move("canary", larger[0], f"{answered:,} answers at {at.share:.0%} broke no guardrail")
    return Move("champion", 1.0, seen.reason) if seen.verdict == "promote" else None
