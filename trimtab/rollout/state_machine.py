"""The state machine of a rollout: its current state, an observation, and the transition that follows. It reads no
telemetry and no clock. `trimtab.rollout.sequential_test` computes the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field

from trimtab.config.fields import Duration
from trimtab.data.labels import LabelRule, rule_of
from trimtab.data.types import Label, Task
from trimtab.rollout.config import RolloutConfig

Phase = Literal[
    "started", "probed", "shadow", "canary", "champion", "rolled back", "closed", "reverted", "experiment", "ended"
]
CHALLENGING: frozenset[Phase] = frozenset({"shadow", "canary"})
FINISHED: frozenset[Phase] = frozenset({"rolled back", "closed", "reverted", "ended"})


class RolloutPolicy(RolloutConfig):
    """The rollout's configuration as fixed on its first day, with what it applies to."""

    task: Task
    classes: dict[str, tuple[Label, ...]] = Field({}, description="per release, the labels that it was trained on")
    metric: str | None = Field(None, description="the gate's metric, which compares blocks of time")
    metric_margin: float = Field(0.0, description="the gate's max_regression, in units of the metric")
    metric_slices: dict[str, float] = Field({}, description="the gate's margins of the slice columns")
    cap: float | None = Field(None, description="regression: absolute error that counts as loss 1, in target units")

    @property
    def label_rule(self) -> LabelRule:
        """How labels are read: a class that neither release knows is none."""
        return rule_of(self.task, [label for known in self.classes.values() for label in known])


class Observation(BaseModel):
    """What telemetry shows of a rollout so far."""

    model_config = ConfigDict(frozen=True)

    pairs: int = Field(0, description="rows that both models scored")
    exposed: int = Field(0, description="answers of the release that users received")
    labels: int = Field(0, description="labelled pairs that count in the current phase")
    elapsed: Duration = Field(timedelta(0), description="data time since the shadow phase or the probation began")
    verdict: Literal["promote", "roll back", "keep collecting"] = "keep collecting"
    reason: str = "no labels yet"
    suspected: bool = Field(False, description="single labels show it worse, blocks of time have not decided yet")
    broken: tuple[str, ...] = Field((), description="broken guardrails, in words")
    labels_until: str | None = Field(None, description="when the newest of these labels arrived (ISO 8601)")
    evidence: dict[str, Any] = Field({}, description="the numbers of the verdict")


@dataclass(frozen=True)
class RolloutState:
    """The current state of a rollout.

    *share* is the challenger's share of the keys, *steps* the number of steps taken, *exposed_before* the number of its
    answers that users had received when this phase began, *labels_until* when the newest label of the last verdict
    arrived.
    """

    phase: Phase
    share: float
    steps: int
    exposed_before: int = 0
    labels_until: str | None = None

    @property
    def is_challenging(self) -> bool:
        """Whether the release is still a challenger, in shadow or canary."""
        return self.phase in CHALLENGING

    @property
    def in_probation(self) -> bool:
        """Whether late labels can still revert the promotion."""
        return self.phase == "champion"

    @property
    def title(self) -> str:
        """The phase for people, with the share of a canary."""
        return f"canary {self.share:.0%}" if self.phase == "canary" else self.phase


@dataclass(frozen=True)
class Transition:
    """The next step: the *phase* to enter, the release's *share* of the keys, and the *reason* for people."""

    phase: Phase
    share: float
    reason: str


class RecordedStep(Protocol):
    """A step of a rollout as the ledger stores it."""

    @property
    def number(self) -> int:
        """The step's number, from 1."""

    @property
    def state(self) -> str:
        """The phase that the rollout entered."""

    @property
    def evidence(self) -> Mapping[str, Any]:
        """`share`, `exposed`, `labels_until` and more, where they apply."""


def current_state(steps: Sequence[RecordedStep]) -> RolloutState:
    """Return the state of a rollout with these *steps*, in order. Without steps it has started.

    >>> current_state([]).phase
    'started'
    """
    if not steps:
        return RolloutState("started", 0.0, 0)
    last = steps[-1]
    return RolloutState(
        cast(Phase, last.state), float(last.evidence.get("share", 0.0)), last.number,
        int(last.evidence.get("exposed", 0)), last.evidence.get("labels_until"),
    )  # fmt: skip


def next_transition(at: RolloutState, seen: Observation, policy: RolloutPolicy) -> Transition | None:
    """Return the transition that the observation *seen* leads to, or None when there is not enough data.

    A broken guardrail or a verdict against the release comes before everything in its favour.

    >>> policy = RolloutPolicy(task="binary", steps=(0.1, 0.5))
    >>> shadow = RolloutState("shadow", 0.0, 3)
    >>> next_transition(shadow, Observation(pairs=600, labels=600), policy).share
    0.1
    >>> next_transition(shadow, Observation(broken=("it is slow",)), policy).phase
    'rolled back'
    """
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
    if seen.suspected:  # both models still score all rows in the shadow
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
