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
from trimtab.rollout.config import RolloutConfig

Phase = Literal[
    "started", "probed", "shadow", "canary", "champion", "rolled back", "closed", "reverted", "experiment", "ended"
]
CHALLENGING: frozenset[Phase] = frozenset({"shadow", "canary"})
FINISHED: frozenset[Phase] = frozenset({"rolled back", "closed", "reverted", "ended"})


class RolloutPolicy(RolloutConfig):
    """What a rollout is judged by until its end: the rules of its first day, and what they apply to."""

    task: Task
    classes: dict[str, tuple[Label, ...]] = Field({}, description="per release, the labels that it knows")
    metric: str | None = Field(None, description="the gate's, by which blocks of time are judged")
    metric_margin: float = Field(0.0, description="the gate's max_regression: how much of it may be lost")
    metric_slices: dict[str, float] = Field({}, description="the gate's margins for the columns of slices")
    cap: float | None = Field(None, description="regression: absolute error at which a loss is 1, in target units")


class Observation(BaseModel):
    """What telemetry says of a rollout up to now."""

    model_config = ConfigDict(frozen=True)

    pairs: int = Field(0, description="answers that both models gave")
    exposed: int = Field(0, description="answers of the release on trial that users got")
    labels: int = Field(0, description="pairs with a label, as far as they count in the present state")
    elapsed: Duration = Field(timedelta(0), description="data time that went by on trial, or in probation")
    verdict: Literal["promote", "roll back", "keep collecting"] = "keep collecting"
    reason: str = "no labels yet"
    suspected: bool = Field(
        False, description="single labels speak against it, and blocks of time have not decided yet"
    )
    broken: tuple[str, ...] = Field((), description="guardrails that broke, in words")
    labels_until: str | None = Field(None, description="when the newest of these labels arrived")
    evidence: dict[str, Any] = Field({}, description="the verdict's numbers")


@dataclass(frozen=True)
class RolloutState:
    """Where a rollout stands. *exposed_before* is how many answers users had got when this state began."""

    phase: Phase
    share: float
    steps: int
    exposed_before: int = 0
    labels_until: str | None = None

    @property
    def is_challenging(self) -> bool:
        """Whether it is still open who will be champion."""
        return self.phase in CHALLENGING

    @property
    def in_probation(self) -> bool:
        """Whether late labels can still revert the promotion."""
        return self.phase == "champion"

    @property
    def title(self) -> str:
        """The state as people read it."""
        return f"canary {self.share:.0%}" if self.phase == "canary" else self.phase


@dataclass(frozen=True)
class Transition:
    """The step to take: *share* of the keys goes to the release on trial, *reason* is for people."""

    phase: Phase
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


def current_state(steps: Sequence[Step]) -> RolloutState:
    """Where the rollout with these *steps*, in order, stands."""
    if not steps:
        return RolloutState("started", 0.0, 0)
    last = steps[-1]
    return RolloutState(
        cast(Phase, last.state), float(last.evidence.get("share", 0.0)), last.number,
        int(last.evidence.get("exposed", 0)), last.evidence.get("labels_until"),
    )  # fmt: skip


def next_transition(at: RolloutState, seen: Observation, policy: RolloutPolicy) -> Transition | None:
    """The step that *seen* asks for; None while there is not enough to go on. Safety first: a guardrail or a verdict
    against the release ends the trial before anything speaks for it."""
    if at.in_probation:
        return _in_probation(seen, policy)
    if not at.is_challenging:
        return None
    if seen.broken:
        return Transition("rolled back", 0.0, "; ".join(seen.broken))
    if seen.verdict == "roll back":
        return Transition("rolled back", 0.0, seen.reason)
    if seen.elapsed >= policy.horizon:
        return _at_the_horizon(seen, policy)
    if seen.suspected:  # both go on scoring everything, so nothing is lost by keeping users away from it
        return Transition("shadow", 0.0, f"back to the shadow: {seen.reason}") if at.share else None
    return _onward(at, seen, policy)


def _in_probation(seen: Observation, policy: RolloutPolicy) -> Transition | None:
    if seen.broken:
        return Transition("reverted", 0.0, "; ".join(seen.broken))
    if seen.verdict == "roll back":
        return Transition("reverted", 0.0, f"labels that came after the promotion: {seen.reason}")
    if seen.elapsed >= policy.probation:
        return Transition("closed", 1.0, f"{seen.labels:,} later labels say nothing against it")
    return None


def _at_the_horizon(seen: Observation, policy: RolloutPolicy) -> Transition:
    if seen.verdict == "promote":
        return Transition("champion", 1.0, seen.reason)
    undecided = f"undecided after {policy.horizon.days} days of data and {seen.labels:,} labels ({seen.reason})"
    if policy.on_inconclusive == "promote" and not seen.suspected:
        return Transition("champion", 1.0, f"{undecided}: promoted, as on_inconclusive says")
    return Transition("rolled back", 0.0, f"{undecided}: the champion stays, as on_inconclusive says")


def _onward(at: RolloutState, seen: Observation, policy: RolloutPolicy) -> Transition | None:
    larger = [share for share in policy.steps if share > at.share]
    if at.phase == "shadow" and policy.steps:
        is_ready = seen.pairs >= policy.min_answers and seen.labels >= policy.min_labels
        why = f"{seen.pairs:,} answers in the shadow and {seen.labels:,} labels show nothing against it"
        return Transition("canary", larger[0], why) if is_ready else None
    answered = seen.exposed - at.exposed_before
    if answered < policy.min_answers and at.phase == "canary":
        return None
    if larger:
        return Transition("canary", larger[0], f"{answered:,} answers at {at.share:.0%} broke no guardrail")
    return Transition("champion", 1.0, seen.reason) if seen.verdict == "promote" else None
