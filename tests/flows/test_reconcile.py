"""What reconcile does when a part of it cannot be done, and what it leaves to others."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from operations import reconciliation
from operations.context import ProjectContext
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from stores.object_store.store import StoreUnavailable
from tasks import orchestrator
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
