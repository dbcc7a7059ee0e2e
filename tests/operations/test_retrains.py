"""Which run may make the next attempt at a retrain, on a real ledger; only the states of flow runs are stubbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from operations import retrains
from operations.context import ProjectContext
from stores.ledger import DecisionRecord, Ledger
from stores.ledger.migrations import migrate
from tasks import orchestrator
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings

WORK = "retrain:2013-03-x"


@pytest.fixture
def ctx(tmp_path: Path) -> ProjectContext:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(ledger)
    return ProjectContext(Settings(project=tmp_path), sample_rows.params(), ledger)


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The states of flow runs; a run that is not in it is unknown to Prefect."""
    known: dict[str, str] = {}
    monkeypatch.setattr(orchestrator, "run_state", known.get)
    return known


def test_without_a_claim_it_is_the_first_attempt(ctx: ProjectContext, states: dict[str, str]) -> None:
    assert retrains.next_attempt(ctx, WORK) == 1


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"])
def test_while_a_run_works_on_it_no_other_may(ctx: ProjectContext, states: dict[str, str], state: str) -> None:
    ctx.ledger.claim(WORK, "run1")
    states["run1"] = state
    assert retrains.next_attempt(ctx, WORK) is None
    assert retrains.next_attempt(ctx, WORK, me="run2") is None
    assert retrains.next_attempt(ctx, WORK, me="run1") == 1


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "CANCELLED", None])
def test_after_a_lost_run_another_may_up_to_the_last_attempt(
    ctx: ProjectContext, states: dict[str, str], state: str | None
) -> None:
    for attempt in range(1, retrains.MAX_ATTEMPTS + 1):
        assert retrains.next_attempt(ctx, WORK) == attempt
        ctx.ledger.claim(WORK, f"run{attempt}", attempt=attempt)
        if state:
            states[f"run{attempt}"] = state
    assert retrains.next_attempt(ctx, WORK) is None
    assert retrains.next_attempt(ctx, WORK, me=f"run{retrains.MAX_ATTEMPTS}") == retrains.MAX_ATTEMPTS


def test_of_two_that_follow_a_lost_run_one_gets_it(ctx: ProjectContext, states: dict[str, str]) -> None:
    ctx.ledger.claim(WORK, "run1")
    states["run1"] = "CRASHED"
    attempts = [retrains.next_attempt(ctx, WORK, me=run) for run in ("run2", "run3")]
    assert attempts == [2, 2]
    assert [ctx.ledger.claim(WORK, run, attempt=2) for run in ("run2", "run3")] == [True, False]


def _decided(ctx: ProjectContext, id: str, period: str, action: str) -> None:
    ctx.ledger.record_decision(
        DecisionRecord(id=id, period=period, release="r", action=action, cause="because", evidence={})
    )


def test_a_scheduled_retrain_waits_while_the_newest_period_is_called_broken(ctx: ProjectContext) -> None:
    assert retrains.block(ctx) is None
    _decided(ctx, "a", "2013-03", "block")
    found = retrains.block(ctx)
    assert found is not None
    assert found.id == "a"


def test_a_newer_period_that_is_sound_lifts_the_block(ctx: ProjectContext) -> None:
    _decided(ctx, "a", "2013-03", "block")
    _decided(ctx, "b", "2013-04", "none")
    assert retrains.block(ctx) is None
