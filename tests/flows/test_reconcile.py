"""What reconcile does when a part of it cannot be done, and what it leaves to others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operations import reconciliation
from operations.context import ProjectContext
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from stores.object_store.store import StoreUnavailable
from tasks import orchestrator
from tasks.orchestrator import FailedRun
from tests.trimtab import sample_rows
from trimtab.config.sections import AlertConfig
from trimtab.config.settings import Settings


def test_what_fails_keeps_nothing_else_from_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, done = import_module("flows.reconcile"), list[object]()

    def part(ctx: object) -> list[str]:
        done.append(ctx)
        return ["done"]

    def unavailable(_ctx: object) -> list[str]:
        raise StoreUnavailable("s3://store/telemetry", "no answer")

    monkeypatch.setattr(flow, "load_context", SimpleNamespace)
    monkeypatch.setattr(flow, "PARTS", (part, unavailable, part, unavailable, part))
    with pytest.raises(flow.Unfinished, match=r"s3://store/telemetry.*; .*s3://store/telemetry"):
        flow.reconcile.fn()
    assert len(done) == 3


def test_an_alert_that_a_flow_has_just_raised_is_not_sent_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = import_module("flows.reconcile")
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(ledger)
    params = sample_rows.params().model_copy(update={"alerts": (AlertConfig(kind="log"),)})
    ctx = ProjectContext(Settings(project=tmp_path, home=tmp_path), params, ledger)
    monkeypatch.setattr(flow, "load_context", lambda: ctx)
    monkeypatch.setattr(orchestrator, "list_failed_runs", list)
    ledger.record_alert("batch:1", kind="batch refused", message="it is empty", evidence={})
    assert flow.reconcile.fn() == []
    monkeypatch.setattr(reconciliation, "GRACE", timedelta(0))
    assert flow.reconcile.fn() == ["alert batch:1 delivered"]


START = datetime(2026, 1, 1, tzinfo=UTC)


class Runs:
    """Flow runs of one deployment, one a minute: what failed with which message, and when one completed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        migrate(ledger)
        params = sample_rows.params().model_copy(update={"alerts": ()})
        self.ctx = ProjectContext(Settings(project=folder, home=folder), params, ledger)
        self.failed: list[FailedRun] = []
        self.completed: list[datetime] = []
        monkeypatch.setattr(orchestrator, "list_failed_runs", lambda: self.failed[::-1][:100])
        monkeypatch.setattr(orchestrator, "crash_orphaned_subflows", lambda _parents: [])
        monkeypatch.setattr(
            orchestrator,
            "completed_after",
            lambda _name, moment: min((c for c in self.completed if c > moment), default=None),
        )

    def fail(self, minute: int, message: str) -> None:
        at = START + timedelta(minutes=minute)
        self.failed.append(FailedRun(f"run-{minute}", "reconcile", "reconcile/every-minute", "FAILED", message, at))

    def complete(self, minute: int) -> None:
        self.completed.append(START + timedelta(minutes=minute))

    def alerts(self) -> list[str]:
        reconciliation.failed_runs(self.ctx)
        return [alert.id for alert in self.ctx.ledger.alerts()]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def test_a_cause_that_stays_is_alerted_once_a_day_and_not_every_minute(runs: Runs) -> None:
    for minute in range(24 * 60 + 30):
        runs.fail(minute, f"Unfinished: no run {minute:032x} (attempt {minute})")
        if minute % 97 == 0:
            runs.alerts()
    assert runs.alerts() == ["run:run-0", f"run:run-{24 * 60}"]


def test_another_cause_has_an_alert_of_its_own(runs: Runs) -> None:
    for minute in range(0, 20, 2):
        runs.fail(minute, "the store does not answer")
        runs.fail(minute + 1, "schema.yaml is missing")
    assert runs.alerts() == ["run:run-0", "run:run-1"]


def test_what_fails_again_after_a_run_that_completed_is_alerted_again(runs: Runs) -> None:
    runs.fail(0, "no space left")
    runs.fail(1, "no space left")
    assert runs.alerts() == ["run:run-0"]
    runs.complete(2)
    runs.fail(3, "no space left")
    runs.fail(4, "no space left")
    assert runs.alerts() == ["run:run-0", "run:run-3"]
    assert runs.alerts() == ["run:run-0", "run:run-3"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ok"]), max_size=30))
def test_every_failure_is_alerted_or_follows_an_alert_of_its_cause(happened: list[str]) -> None:
    """Whenever reconcile looks: at the end, or after each run."""
    from tempfile import TemporaryDirectory

    found = []
    for looks_each_time in (False, True):
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            runs = Runs(Path(folder), patch)
            for minute, what in enumerate(happened):
                runs.complete(minute) if what == "ok" else runs.fail(minute, what)
                if looks_each_time:
                    runs.alerts()
            found.append(runs.alerts())
    first = {
        f"run:run-{minute}"
        for minute, what in enumerate(happened)
        if what != "ok"
        and what not in happened[max((i + 1 for i in range(minute) if happened[i] == "ok"), default=0) : minute]
    }
    assert set(found[0]) == set(found[1]) == first
