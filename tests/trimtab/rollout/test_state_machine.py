"""The state machine of a rollout: which transition follows from an observation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.rollout.state_machine import Observation, RolloutPolicy, RolloutState, current_state, next_transition

POLICY = RolloutPolicy(task="binary", steps=(0.1, 0.5), min_labels=50, min_answers=20, horizon=timedelta(days=10))
SHADOW = RolloutState("shadow", 0.0, 3)

verdicts = st.sampled_from(["promote", "roll back", "keep collecting"])
everything_seen = st.builds(
    Observation,
    pairs=st.integers(0, 10_000),
    exposed=st.integers(0, 10_000),
    labels=st.integers(0, 10_000),
    elapsed=st.timedeltas(timedelta(0), timedelta(days=40)),
    verdict=verdicts,
    suspected=st.booleans(),
    broken=st.sampled_from([(), ("it is slow",)]),
)
challenging = st.sampled_from([SHADOW, RolloutState("canary", 0.1, 4, 30), RolloutState("canary", 0.5, 5, 90)])


def seen(verdict: Literal["promote", "roll back", "keep collecting"] = "keep collecting", **more: Any) -> Observation:
    return Observation(
        **{"pairs": 1000, "exposed": 1000, "labels": 1000, "verdict": verdict, "reason": "because", **more}
    )


@given(at=challenging, found=everything_seen)
def test_everything_against_the_release_ends_the_rollout(at: RolloutState, found: Observation) -> None:
    if found.broken or found.verdict == "roll back":
        move = next_transition(at, found, POLICY)
        assert move is not None
        assert (move.phase, move.share) == ("rolled back", 0.0)


@given(at=challenging, found=everything_seen)
def test_nothing_becomes_champion_without_the_verdict_unless_the_policy_says_so(
    at: RolloutState, found: Observation
) -> None:
    move = next_transition(at, found, POLICY)
    if move is not None and move.phase == "champion":
        assert found.verdict == "promote"
    allowed = next_transition(at, found, POLICY.model_copy(update={"on_inconclusive": "promote"}))
    if allowed is not None and allowed.phase == "champion" and found.verdict != "promote":
        assert found.elapsed >= POLICY.horizon


@given(at=challenging, found=everything_seen)
def test_no_canary_step_is_left_out(at: RolloutState, found: Observation) -> None:
    move = next_transition(at, found, POLICY)
    if move is None or found.elapsed >= POLICY.horizon:
        return
    if found.suspected and move.phase == "shadow":
        assert at.share > 0
        return
    following = {0.0: ("canary", 0.1), 0.1: ("canary", 0.5), 0.5: ("champion", 1.0)}
    assert (move.phase, move.share) in (("rolled back", 0.0), following[at.share])


@given(at=challenging, found=everything_seen)
def test_the_horizon_always_decides(at: RolloutState, found: Observation) -> None:
    if found.elapsed >= POLICY.horizon:
        move = next_transition(at, found, POLICY)
        assert move is not None
        assert move.phase in ("champion", "rolled back")


@pytest.mark.parametrize(
    ("at", "found", "state"),
    [
        (SHADOW, seen(labels=49), None),
        (SHADOW, seen(pairs=19), None),
        (SHADOW, seen(), "canary"),
        (RolloutState("canary", 0.1, 4, exposed_before=990), seen("promote"), None),
        (RolloutState("canary", 0.1, 4, exposed_before=980), seen(), "canary"),
        (RolloutState("canary", 0.5, 5, exposed_before=0), seen(), None),
        (RolloutState("canary", 0.5, 5, exposed_before=0), seen("promote"), "champion"),
        (RolloutState("champion", 1.0, 6), seen(), None),
        (RolloutState("champion", 1.0, 6), seen("roll back"), "reverted"),
        (RolloutState("champion", 1.0, 6), seen(broken=("it failed",)), "reverted"),
        (RolloutState("champion", 1.0, 6), seen(elapsed=timedelta(days=28)), "closed"),
        (RolloutState("rolled back", 0.0, 6), seen("promote"), None),
    ],
    ids=lambda value: getattr(value, "words", None) or str(value)[:60],
)
def test_a_step_is_taken_when_there_is_enough_to_go_on(at: RolloutState, found: Observation, state: str | None) -> None:
    move = next_transition(at, found, POLICY)
    assert (move.phase if move else None) == state


@given(at=challenging, found=everything_seen)
def test_a_release_under_suspicion_is_kept_away_from_users(at: RolloutState, found: Observation) -> None:
    policy = POLICY.model_copy(update={"on_inconclusive": "promote"})
    move = next_transition(at, found, policy)
    if found.suspected and found.verdict == "keep collecting":
        assert (move.share if move else at.share) == 0.0


def test_without_steps_the_shadow_leads_straight_to_champion() -> None:
    policy = POLICY.model_copy(update={"steps": ()})
    assert next_transition(SHADOW, seen(), policy) is None
    move = next_transition(SHADOW, seen("promote"), policy)
    assert move is not None
    assert move.phase == "champion"


@dataclass(frozen=True)
class Taken:
    number: int
    state: str
    evidence: dict[str, Any]


def test_where_a_rollout_stands_is_read_off_its_steps() -> None:
    steps = [
        Taken(1, "started", {}),
        Taken(2, "probed", {"ok": True}),
        Taken(3, "shadow", {"share": 0.0}),
        Taken(4, "canary", {"share": 0.1, "exposed": 7, "labels_until": "2013-03-01T00:00:00"}),
    ]
    assert current_state([]) == RolloutState("started", 0.0, 0)
    assert current_state(steps[:2]).is_challenging is False
    assert current_state(steps) == RolloutState("canary", 0.1, 4, 7, "2013-03-01T00:00:00")
    assert current_state(steps).title == "canary 10%"


def test_a_policy_survives_the_ledger() -> None:
    policy = POLICY.model_copy(update={"classes": {"aa": ("x", "y"), "bb": (1, 2)}, "cap": 3.5})
    assert RolloutPolicy.model_validate(policy.model_dump(mode="json")) == policy
