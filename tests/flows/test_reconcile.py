"""What reconcile does when a part of it cannot be done."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace

import pytest

from flows import observe, targets
from stores.objects import Unreachable

PARTS = (
    "owed_validation", "owed_retrains", "owed_monitoring", "begun_rollouts", "untold_steps", "alias", "failures",
    "waiting_alerts",
)  # fmt: skip


def test_what_fails_keeps_nothing_else_from_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, done = import_module("flows.reconcile"), list[str]()

    def part(name: str) -> Callable[[object], list[str]]:
        def do(_place: object) -> list[str]:
            done.append(name)
            return [name]

        return do

    def away(_place: object) -> list[str]:
        raise Unreachable("s3://store/telemetry", "no answer")

    monkeypatch.setattr(flow, "here", SimpleNamespace)
    for name in PARTS:
        monkeypatch.setattr(flow, name, part(name))
    monkeypatch.setattr(flow, "running_rollouts", away)
    monkeypatch.setattr(observe, "settle", away)
    monkeypatch.setattr(targets, "settle", part("targets"))
    with pytest.raises(flow.Unfinished, match=r"s3://store/telemetry.*; .*s3://store/telemetry"):
        flow.reconcile.fn()
    assert sorted(done) == sorted([*PARTS, "targets"])
