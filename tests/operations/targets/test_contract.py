"""Which rollout is pending, so that its processes are left alone and reconcile starts deploy again."""

from __future__ import annotations

from pathlib import Path

import pytest

from operations.targets.contract import pending_release, pending_rollout
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from trimtab.experiment.report import STRATEGY

OLD, NEW, OTHER = "0" * 64, "1" * 64, "2" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """One in which *OLD* is live and *NEW* has set out."""
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(made)
    for digest in (OLD, NEW, OTHER):
        made.record_release(digest, model_name="m", model_version=1, run_id="r", manifest={})
    made.switch(OLD, expected=0, move="promote", reason="first", actor="a")
    start(made, "new", NEW)
    return made


def start(ledger: Ledger, rollout: str, release: str, strategy: str = "rollout") -> None:
    ledger.start_rollout(rollout, release=release, champion_before=OLD, strategy=strategy, cause="c")
    ledger.step_rollout(rollout, 1, "started")


@pytest.mark.parametrize("state", ["started", "probed"])
def test_a_rollout_whose_release_was_not_probed_yet_is_pending(ledger: Ledger, state: str) -> None:
    ledger.step_rollout("new", 2, state)
    assert pending_release(ledger) == NEW


def test_the_first_rollout_of_all_is_pending(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'other.db'}")
    migrate(ledger)
    ledger.record_release(NEW, model_name="m", model_version=1, run_id="r", manifest={})
    ledger.start_rollout("new", release=NEW, champion_before=None, strategy="switch", cause="c")
    assert pending_release(ledger) == NEW


@pytest.mark.parametrize("state", ["shadow", "rolled back", "ended"])
def test_a_rollout_that_has_come_further_is_not(ledger: Ledger, state: str) -> None:
    ledger.step_rollout("new", 2, state)
    assert pending_rollout(ledger) is None


def test_a_rollout_whose_champion_was_replaced_is_not(ledger: Ledger) -> None:
    ledger.switch(OTHER, expected=1, move="promote", reason="by hand", actor="a")
    assert pending_release(ledger) is None


def test_a_later_rollout_supersedes_it_but_an_experiment_does_not(ledger: Ledger) -> None:
    start(ledger, "experiment", OTHER, STRATEGY)
    assert pending_release(ledger) == NEW
    start(ledger, "other", OTHER)
    assert pending_release(ledger) == OTHER
