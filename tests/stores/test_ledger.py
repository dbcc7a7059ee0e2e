"""The ledger on both databases: a fact counts once, however often it is recorded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stores.ledger import (
    ConflictError,
    DecisionRecord,
    ForeignLedger,
    GateRecord,
    Ledger,
    LedgerUnavailable,
    LiveRelease,
    RolloutObservation,
    RolloutStep,
    ValidationRecord,
)
from stores.ledger.migrations import migrate

THREADS = 8
CHECK = ValidationRecord(
    "2013-03", "d1", "s1", accepted=True, reason="fine", rows_good=9, rows_bad=1, evidence={"a": [1]}
)
DECISION = DecisionRecord("2013-03-x", "2013-03", "r1", "retrain", "it moved", {"finding": {"period": "2013-03"}})
GATE = GateRecord("g1", "run1", None, passed=True, reason="first model", evidence={"value": None})


def release(ledger: Ledger, digest: str) -> bool:
    return ledger.record_release(digest, model_name="m", model_version=1, run_id="run", manifest={"digest": digest})


def switch(ledger: Ledger, digest: str, expected: int, **more: Any) -> LiveRelease:
    return ledger.switch(digest, **{"expected": expected, "move": "promote", "reason": "why", "actor": "me", **more})


def together(work: Callable[[int], Any]) -> list[Any]:
    """What THREADS threads get from *work*, begun at the same moment; an error is a result as well."""
    barrier = threading.Barrier(THREADS)

    def one(number: int) -> Any:
        barrier.wait()
        try:
            return work(number)
        except (ConflictError, LookupError) as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


FACTS: dict[str, Callable[[Ledger, int], bool]] = {
    "a batch": lambda ledger, _: ledger.record_batch("2013-03", "d1", rows=3, source="s"),
    "a check": lambda ledger, _: ledger.record_validation(CHECK),
    "a dataset": lambda ledger, _: ledger.record_dataset("h1", pointer="outs:", period="2013-03", cause="landed"),
    "a decision": lambda ledger, _: ledger.record_decision(DECISION),
    "an outcome": lambda ledger, n: ledger.record_outcome("retrain:x", f"result {n}", owner=f"o{n}"),
    "a gate": lambda ledger, _: ledger.record_gate(GATE),
    "a release": lambda ledger, _: release(ledger, "r2"),
    "a rollout": lambda ledger, _: ledger.start_rollout(
        "ro", release="r1", champion_before=None, strategy="s", cause="c"
    ),
    "a step": lambda ledger, n: ledger.step_rollout("begun", 2, f"state {n}"),
    "an alert": lambda ledger, _: ledger.record_alert("a1", kind="k", message="m", evidence={}),
    "a claim": lambda ledger, n: ledger.claim("retrain:x", f"owner {n}"),
}


@pytest.mark.parametrize("fact", FACTS)
def test_of_many_concurrent_writers_exactly_one_is_first(ledger: Ledger, fact: str) -> None:
    release(ledger, "r1")
    ledger.start_rollout("begun", release="r1", champion_before=None, strategy="direct", cause="c")
    assert sorted(together(lambda n: FACTS[fact](ledger, n))) == [False] * (THREADS - 1) + [True]


def test_of_many_who_switch_exactly_one_wins_and_the_others_know(ledger: Ledger) -> None:
    for n in range(THREADS):
        release(ledger, f"r{n}")
    for expected in range(3):
        got = together(partial(lambda seen, n: switch(ledger, f"r{n}", seen), expected))
        won = [g for g in got if isinstance(g, LiveRelease)]
        assert len(won) == 1
        assert sum(isinstance(g, ConflictError) for g in got) == THREADS - 1
        assert ledger.live() == won[0]
        assert won[0].version == expected + 1
    assert [entry.version for entry in ledger.history()] == [1, 2, 3]


def test_who_holds_a_claim_may_ask_again_and_another_may_take_the_next_attempt(ledger: Ledger) -> None:
    assert ledger.claim("w", "me")
    assert ledger.claim("w", "me")
    assert not ledger.claim("w", "you")
    assert ledger.claim("w", "you", attempt=2)
    assert [(c.attempt, c.owner) for c in ledger.claims("w")] == [(1, "me"), (2, "you")]
    assert ledger.claims("other") == []


def test_the_first_outcome_counts(ledger: Ledger) -> None:
    assert ledger.record_outcome("w", "promoted", owner="me", evidence={"version": 3})
    assert not ledger.record_outcome("w", "rejected", owner="you")
    assert (ledger.outcomes()["w"].result, ledger.outcomes()["w"].evidence) == ("promoted", {"version": 3})


def test_what_was_recorded_comes_back_as_it_was(ledger: Ledger) -> None:
    ledger.record_validation(CHECK)
    ledger.record_decision(DECISION)
    ledger.record_gate(GATE)
    (check,), (decision,), gate = ledger.validations("2013-03"), ledger.decisions(), ledger.gate("run1")
    assert gate is not None
    for got, given in ((check, CHECK), (decision, DECISION), (gate, GATE)):
        assert got == type(given)(**{**given.__dict__, "recorded_at": got.recorded_at})
        assert got.recorded_at is not None
        assert abs((got.recorded_at.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 60
    assert ledger.decision("2013-03-x") == decision
    assert ledger.decision("unknown") is None
    assert ledger.gate("unknown") is None
    assert ledger.validations("2013-04") == []


def test_the_same_batch_under_another_schema_is_another_check(ledger: Ledger) -> None:
    assert ledger.record_validation(CHECK)
    assert ledger.record_validation(ValidationRecord(**{**CHECK.__dict__, "schema": "s2", "accepted": False}))
    assert {(c.schema, c.accepted) for c in ledger.validations()} == {("s1", True), ("s2", False)}


def test_a_switch_needs_the_version_that_is_seen_and_keeps_its_reason(ledger: Ledger) -> None:
    release(ledger, "aa1")
    release(ledger, "aa2")
    assert ledger.live() is None
    switch(ledger, "aa1", 0)
    moved = switch(
        ledger, "aa2", 1, move="rollback", reason="it sank", challenger="aa1", challenger_share=0.25, rollout="ro"
    )
    assert (moved.champion, moved.challenger, moved.challenger_share) == ("aa2", "aa1", 0.25)
    assert [(h.version, h.champion, h.move, h.reason) for h in ledger.history()] == [
        (1, "aa1", "promote", "why"), (2, "aa2", "rollback", "it sank"),
    ]  # fmt: skip
    for stale in (0, 1, 3):
        with pytest.raises(ConflictError) as lost:
            switch(ledger, "aa1", stale)
        assert lost.value.expected == stale
    assert ledger.live() == moved


@pytest.mark.parametrize("unknown", [{"champion": "bb"}, {"champion": "aa"}, {"champion": "aa1", "challenger": "bb"}])
def test_a_release_that_is_not_in_the_ledger_never_goes_live(ledger: Ledger, unknown: dict[str, str]) -> None:
    """Not even when its name begins one that is."""
    release(ledger, "aa1")
    with pytest.raises(LookupError, match="register it first"):
        switch(ledger, unknown["champion"], 0, challenger=unknown.get("challenger"))
    assert ledger.live() is None


def test_a_release_may_be_called_by_its_first_characters_when_they_are_its_alone(ledger: Ledger) -> None:
    release(ledger, "abc1")
    release(ledger, "abd2")
    (first, _), found = ledger.releases(), ledger.release("abc")
    assert found == first
    assert first.digest == "abc1"
    assert ledger.model_version("abc") == 1
    assert ledger.model_version("ab") is None
    assert ledger.release("ab") is None
    assert ledger.release("%") is None
    assert ledger.release("a_c") is None
    assert {r.digest for r in ledger.releases()} == {"abc1", "abd2"}


def test_the_steps_of_a_rollout_are_kept_in_order(ledger: Ledger) -> None:
    release(ledger, "r1")
    assert ledger.start_rollout("ro", release="r1", champion_before=None, strategy="direct", cause="c")
    for step, state in ((1, "loaded"), (3, "champion"), (2, "probed")):
        assert ledger.step_rollout("ro", step, state)
    assert [s.state for s in ledger.rollout_steps("ro")] == ["loaded", "probed", "champion"]
    assert [r.id for r in ledger.rollouts()] == ["ro"]


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        away = Ledger(f"postgresql+psycopg://trimtab:s3cret@127.0.0.1:{port}/ledger")
        for question in (
            away.live,
            lambda: migrate(away),
            away.history,
            lambda: away.claim("w", "me"),
            lambda: switch(away, "r", 0),
        ):
            with pytest.raises(LedgerUnavailable, match=f"127.0.0.1:{port}/ledger does not answer") as caught:
                question()
            assert "s3cret" not in str(caught.value)


def test_a_folder_that_is_not_there_is_a_ledger_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        Ledger(f"sqlite:///{tmp_path / 'gone' / 'ledger.db'}").live()


def test_a_step_and_what_it_does_to_the_live_row_happen_together_or_not_at_all(ledger: Ledger) -> None:
    for digest in ("r1", "r2"):
        release(ledger, digest)
    first = switch(ledger, "r1", expected=0)
    ledger.start_rollout(
        "ro", release="r2", champion_before="r1", strategy="rollout", cause="c", policy={"alpha": 0.05}
    )
    switch(ledger, "r1", expected=first.version, challenger="r2", step=RolloutStep("ro", 1, "shadow", {"labels": 3}))
    with pytest.raises(ConflictError):
        switch(ledger, "r1", expected=2, challenger="r2", challenger_share=0.05, step=RolloutStep("ro", 1, "canary"))
    now = ledger.live()
    assert now is not None
    assert (now.version, now.challenger, now.challenger_share) == (2, "r2", 0.0)
    with pytest.raises(ConflictError):
        switch(ledger, "r2", expected=1, step=RolloutStep("ro", 2, "champion"))
    assert [(s.number, s.state, s.evidence) for s in ledger.rollout_steps("ro")] == [(1, "shadow", {"labels": 3})]
    found = ledger.rollout("ro")
    assert found is not None
    assert found.policy == {"alpha": 0.05}
    assert ledger.rollout("another") is None


def test_only_one_of_two_observations_with_the_same_number_counts(ledger: Ledger) -> None:
    release(ledger, "r1")
    ledger.start_rollout("ro", release="r1", champion_before=None, strategy="rollout", cause="c")
    assert ledger.last_observation("ro") is None
    assert ledger.record_observation(RolloutObservation("ro", 1, "shadow", 10, 2, "keep collecting", {}))
    assert not ledger.record_observation(RolloutObservation("ro", 1, "shadow", 20, 4, "promote", {}))
    assert ledger.record_observation(RolloutObservation("ro", 2, "shadow", 30, 6, "promote", {"e": 1.5}))
    assert [(look.number, look.pairs) for look in ledger.observations("ro")] == [(1, 10), (2, 30)]
    newest = ledger.last_observation("ro")
    assert newest is not None
    assert newest.verdict == "promote"


def test_the_current_rollout_is_the_one_whose_challenger_is_scored(ledger: Ledger) -> None:
    for digest in ("r1", "r2"):
        release(ledger, digest)
    assert ledger.current_rollout() is None
    switch(ledger, "r1", expected=0)
    ledger.start_rollout("ro", release="r2", champion_before="r1", strategy="rollout", cause="c")
    assert ledger.current_rollout() is None, "no challenger is scored yet"
    step = RolloutStep("ro", 1, "canary", {"share": 0.2})
    live = switch(ledger, "r1", expected=1, challenger="r2", challenger_share=0.2, rollout="ro", step=step)
    found = ledger.current_rollout()
    assert found is not None
    assert (found.live, found.rollout.release, found.state.title) == (live, "r2", "canary 20%")
    step = RolloutStep("ro", 2, "champion", {"share": 1.0})
    switch(ledger, "r2", expected=2, challenger="r1", rollout="ro", step=step)
    found = ledger.current_rollout()
    assert found is not None
    assert found.state.in_probation
    switch(ledger, "r2", expected=3, move="close", rollout="ro", step=RolloutStep("ro", 3, "closed"))
    assert ledger.current_rollout() is None
    before = ledger.current_rollout(live)
    assert before is not None
    assert before.live == live, "of the live release that the caller read"


def test_a_ledger_is_that_of_one_project(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.require_project("bikes")
    with pytest.raises(ForeignLedger, match=r"belongs to the project bikes, and params\.yaml says flights"):
        ledger.require_project("flights")
