"""Who may make the next attempt at a retrain, on a real ledger; only Prefect's word on a run is spoken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import retrain
from operations.context import ProjectContext
from stores.ledger import DecisionRecord, Ledger
from stores.ledger.migrations import migrate
from tasks import orchestrator
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings

WORK = "retrain:2013-03-x"


@pytest.fixture
def place(tmp_path: Path) -> ProjectContext:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(ledger)
    return ProjectContext(Settings(project=tmp_path), sample_rows.params(), ledger)


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The states of flow runs; a run that is not in it is unknown to Prefect."""
    known: dict[str, str] = {}
    monkeypatch.setattr(orchestrator, "run_state", known.get)
    return known


def test_nobody_at_it_is_the_first_attempt(place: ProjectContext, states: dict[str, str]) -> None:
    assert retrain.next_attempt(place, WORK) == 1


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"])
def test_while_a_run_is_at_it_nobody_else_may(place: ProjectContext, states: dict[str, str], state: str) -> None:
    place.ledger.claim(WORK, "run1")
    states["run1"] = state
    assert retrain.next_attempt(place, WORK) is None
    assert retrain.next_attempt(place, WORK, me="run2") is None
    assert retrain.next_attempt(place, WORK, me="run1") == 1


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "CANCELLED", None])
def test_after_a_lost_run_another_may_up_to_the_last_attempt(
    place: ProjectContext, states: dict[str, str], state: str | None
) -> None:
    for attempt in range(1, retrain.MAX_ATTEMPTS + 1):
        assert retrain.next_attempt(place, WORK) == attempt
        place.ledger.claim(WORK, f"run{attempt}", attempt=attempt)
        if state:
            states[f"run{attempt}"] = state
    assert retrain.next_attempt(place, WORK) is None
    assert retrain.next_attempt(place, WORK, me=f"run{retrain.MAX_ATTEMPTS}") == retrain.MAX_ATTEMPTS


def test_of_two_that_follow_a_lost_run_one_gets_it(place: ProjectContext, states: dict[str, str]) -> None:
    place.ledger.claim(WORK, "run1")
    states["run1"] = "CRASHED"
    attempts = [retrain.next_attempt(place, WORK, me=run) for run in ("run2", "run3")]
    assert attempts == [2, 2]
    assert [place.ledger.claim(WORK, run, attempt=2) for run in ("run2", "run3")] == [True, False]


def _decided(place: ProjectContext, id: str, period: str, action: str) -> None:
    place.ledger.record_decision(
        DecisionRecord(id=id, period=period, release="r", action=action, cause="because", evidence={})
    )


def test_a_scheduled_retrain_waits_while_the_newest_period_is_called_broken(place: ProjectContext) -> None:
    assert retrain.blocked(place) is None
    _decided(place, "a", "2013-03", "block")
    found = retrain.blocked(place)
    assert found is not None
    assert found.id == "a"


def test_a_newer_period_that_is_sound_lifts_the_block(place: ProjectContext) -> None:
    _decided(place, "a", "2013-03", "block")
    _decided(place, "b", "2013-04", "none")
    assert retrain.blocked(place) is None
