"""The statistics of the ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from operations.retrains import work_of
from stores.ledger import DecisionRecord, Ledger, ValidationRecord, statistics


def check(ledger: Ledger, period: str, *, accepted: bool = True, digest: str = "d") -> None:
    ledger.record_batch(period, digest, rows=1, source="s")
    ledger.record_validation(ValidationRecord(period, digest, "schema", accepted, "reason", 1, 0))


def decide(ledger: Ledger, id: str, action: str = "retrain", *, evidence: dict[str, Any] | None = None) -> None:
    ledger.record_decision(DecisionRecord(id, "2013-01", "release", action, "cause", evidence or {}))


def released(ledger: Ledger, *digests: str) -> None:
    for digest in digests:
        ledger.record_release(digest, model_name="m", model_version=1, run_id=f"run of {digest}", manifest={})


def test_the_newest_accepted_period_and_what_was_refused_after_it(ledger: Ledger) -> None:
    assert statistics.newest_accepted(ledger) is None
    assert statistics.quarantined_since(ledger, None) == 0
    check(ledger, "2013-01", accepted=False)
    assert statistics.quarantined_since(ledger, None) == 1
    check(ledger, "2013-02")
    check(ledger, "2013-03", accepted=False, digest="a")
    check(ledger, "2013-03", accepted=False, digest="b")
    assert statistics.newest_accepted(ledger) == "2013-02"
    assert statistics.quarantined_since(ledger, "2013-02") == 1


def test_a_retrain_is_pending_until_it_has_an_outcome_or_a_later_one_has_trained(ledger: Ledger) -> None:
    decide(ledger, "2013.03-watch", "watch")
    assert statistics.retrain_backlog(ledger) == statistics.Backlog(0, None)
    decide(ledger, "2013.03-a")
    decide(ledger, "2013.04-b")
    found = statistics.retrain_backlog(ledger)
    assert found.count == 2
    assert found.oldest_at is not None
    assert found.oldest_at.tzinfo is not None
    ledger.record_outcome(work_of("2013.03-a"), "done before", owner="o")
    assert statistics.retrain_backlog(ledger).count == 1
    ledger.record_outcome(work_of("run:1"), "blocked", owner="o")
    assert statistics.retrain_backlog(ledger).count == 1
    ledger.record_outcome(work_of("run:2"), "rejected", owner="o")
    assert statistics.retrain_backlog(ledger).count == 0


def test_accepted_batches_wait_for_monitoring(ledger: Ledger) -> None:
    check(ledger, "2013-01")
    check(ledger, "2013-02", accepted=False)
    assert statistics.monitoring_backlog(ledger).count == 1
    ledger.record_outcome("monitor:2013-01:d", "none", owner="o")
    assert statistics.monitoring_backlog(ledger).count == 0


def test_alerts_that_did_not_reach_every_channel_are_counted(ledger: Ledger) -> None:
    for id in ("1", "2"):
        ledger.record_alert(id, kind="batch refused", message="m", evidence={})
    ledger.record_outcome("alert:1", "delivered", owner="alerts")
    ledger.record_outcome("alert:2:webhook-1", "delivered", owner="alerts")
    assert statistics.alert_backlog(ledger).count == 1
    assert statistics.alerts_by_kind(ledger) == {"batch refused": 2}


def test_the_last_decision_of_each_action_is_known(ledger: Ledger) -> None:
    assert statistics.newest_decision(ledger) is None
    decide(ledger, "2013.01-a", "none")
    decide(ledger, "2013.02-b", "none", evidence={"impact": 0.1})
    found = statistics.last_decisions(ledger)
    assert found["none"][0] == 2
    newest = statistics.newest_decision(ledger)
    assert newest is not None


@pytest.mark.parametrize("states", [[], ["probed"], ["probed", "shadow", "canary"]], ids=["none", "one", "three"])
def test_a_rollout_has_the_state_of_its_last_step(ledger: Ledger, states: list[str]) -> None:
    released(ledger, "a", "b")
    ledger.start_rollout("r", release="b", champion_before="a", strategy="rollout", cause="c")
    for number, state in enumerate(states, 1):
        ledger.step_rollout("r", number, state)
    (found,) = statistics.rollouts(ledger)
    assert (found.id, found.release, found.strategy) == ("r", "b", "rollout")
    assert found.state == (states[-1] if states else "started")
    assert found.entered_at >= found.began_at
