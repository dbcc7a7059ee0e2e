"""The journey of a challenger: which step follows from what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.rollout.state_machine import Seen, Standing, Terms, follow, standing

TERMS = Terms(task="binary", steps=(0.1, 0.5), min_labels=50, min_answers=20, horizon=timedelta(days=10))
SHADOW = Standing("shadow", 0.0, 3)

verdicts = st.sampled_from(["promote", "roll back", "keep collecting"])
everything_seen = st.builds(
    Seen,
    pairs=st.integers(0, 10_000),
    exposed=st.integers(0, 10_000),
    labels=st.integers(0, 10_000),
    elapsed=st.timedeltas(timedelta(0), timedelta(days=40)),
    verdict=verdicts,
    suspected=st.booleans(),
    broken=st.sampled_from([(), ("it is slow",)]),
)
trials = st.sampled_from([SHADOW, Standing("canary", 0.1, 4, 30), Standing("canary", 0.5, 5, 90)])


def seen(verdict: Literal["promote", "roll back", "keep collecting"] = "keep collecting", **more: Any) -> Seen:
    return Seen(**{"pairs": 1000, "exposed": 1000, "labels": 1000, "verdict": verdict, "reason": "because", **more})


@given(at=trials, found=everything_seen)
def test_whatever_speaks_against_the_release_ends_the_trial(at: Standing, found: Seen) -> None:
    if found.broken or found.verdict == "roll back":
        move = follow(at, found, TERMS)
        assert move is not None
        assert (move.state, move.share) == ("rolled back", 0.0)


@given(at=trials, found=everything_seen)
def test_nothing_becomes_champion_without_the_verdict_unless_the_policy_says_so(at: Standing, found: Seen) -> None:
    move = follow(at, found, TERMS)
    if move is not None and move.state == "champion":
        assert found.verdict == "promote"
    allowed = follow(at, found, TERMS.model_copy(update={"on_inconclusive": "promote"}))
    if allowed is not None and allowed.state == "champion" and found.verdict != "promote":
        assert found.elapsed >= TERMS.horizon


@given(at=trials, found=everything_seen)
def test_no_canary_step_is_left_out(at: Standing, found: Seen) -> None:
    move = follow(at, found, TERMS)
    if move is None or found.elapsed >= TERMS.horizon:
        return
    if found.suspected and move.state == "shadow":
        assert at.share > 0
        return
    following = {0.0: ("canary", 0.1), 0.1: ("canary", 0.5), 0.5: ("champion", 1.0)}
    assert (move.state, move.share) in (("rolled back", 0.0), following[at.share])


@given(at=trials, found=everything_seen)
def test_the_horizon_always_decides(at: Standing, found: Seen) -> None:
    if found.elapsed >= TERMS.horizon:
        move = follow(at, found, TERMS)
        assert move is not None
        assert move.state in ("champion", "rolled back")


@pytest.mark.parametrize(
    ("at", "found", "state"),
    [
        (SHADOW, seen(labels=49), None),
        (SHADOW, seen(pairs=19), None),
        (SHADOW, seen(), "canary"),
        (Standing("canary", 0.1, 4, exposed_before=990), seen("promote"), None),
        (Standing("canary", 0.1, 4, exposed_before=980), seen(), "canary"),
        (Standing("canary", 0.5, 5, exposed_before=0), seen(), None),
        (Standing("canary", 0.5, 5, exposed_before=0), seen("promote"), "champion"),
        (Standing("champion", 1.0, 6), seen(), None),
        (Standing("champion", 1.0, 6), seen("roll back"), "reverted"),
        (Standing("champion", 1.0, 6), seen(broken=("it failed",)), "reverted"),
        (Standing("champion", 1.0, 6), seen(elapsed=timedelta(days=28)), "closed"),
        (Standing("rolled back", 0.0, 6), seen("promote"), None),
    ],
    ids=lambda value: getattr(value, "words", None) or str(value)[:60],
)
def test_a_step_is_taken_when_there_is_enough_to_go_on(at: Standing, found: Seen, state: str | None) -> None:
    move = follow(at, found, TERMS)
    assert (move.state if move else None) == state


@given(at=trials, found=everything_seen)
def test_a_release_under_suspicion_is_kept_away_from_users(at: Standing, found: Seen) -> None:
    terms = TERMS.model_copy(update={"on_inconclusive": "promote"})
    move = follow(at, found, terms)
    if found.suspected and found.verdict == "keep collecting":
        assert (move.share if move else at.share) == 0.0


def test_without_steps_the_shadow_leads_straight_to_champion() -> None:
    terms = TERMS.model_copy(update={"steps": ()})
    assert follow(SHADOW, seen(), terms) is None
    move = follow(SHADOW, seen("promote"), terms)
    assert move is not None
    assert move.state == "champion"


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
    assert standing([]) == Standing("started", 0.0, 0)
    assert standing(steps[:2]).on_trial is False
    assert standing(steps) == Standing("canary", 0.1, 4, 7, "2013-03-01T00:00:00")
    assert standing(steps).words == "canary 10%"


def test_terms_survive_the_ledger() -> None:
    terms = TERMS.model_copy(update={"classes": {"aa": ("x", "y"), "bb": (1, 2)}, "cap": 3.5})
    assert Terms.model_validate(terms.model_dump(mode="json")) == terms
