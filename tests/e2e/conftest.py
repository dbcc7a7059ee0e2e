"""What tests of trouble share: runs through the worker, a project that is put back as it was, alerts that are heard."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.conftest import Stack
from tests.waiting import eventually

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def started(stack: Stack, deployment: str, **parameters: Any) -> str:
    """Ask for a run through the worker, as people do in the UI; its id."""
    found = stack.prefect(f"/deployments/name/{deployment}")
    return str(stack.prefect(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"])


def ended(stack: Stack, run: str, *, within_s: float = 120) -> dict[str, Any]:
    """The run, once it is over; it may take an outage of Prefect to get there."""
    return eventually(lambda: _over(stack, run), f"the end of run {run}", within_s=within_s)


def _over(stack: Stack, run: str) -> dict[str, Any] | None:
    found: dict[str, Any] = stack.prefect(f"/flow_runs/{run}")
    return found if found["state_type"] in ENDED else None


@contextmanager
def changed_params(stack: Stack, change: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    """The project with other params; put back afterwards."""
    path = stack.settings.root / "params.yaml"
    kept = path.read_text()
    content = yaml.safe_load(kept)
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        yield
    finally:
        path.write_text(kept)


@contextmanager
def same_champion(stack: Stack) -> Iterator[str]:
    """Whoever is live now (the digest), with nobody on trial or in probation, is so again afterwards."""
    before = stack.ledger.live()
    assert before is not None
    if before.challenger:
        _alone(stack, before.champion)
    try:
        yield before.champion
    finally:
        now = stack.ledger.live()
        if now is None or now.champion != before.champion or now.challenger:
            _alone(stack, before.champion)


def _alone(stack: Stack, champion: str) -> None:
    run = started(stack, "deploy/on-request", release=champion, cause="for a test", at_once=True)
    assert ended(stack, run)["state_type"] == "COMPLETED"


_RECONCILE_NOW = """
from datetime import timedelta
from flows.reconcile import reconcile
from operations import reconciliation
reconciliation.GRACE = timedelta(0)  # the fast path has had its chance
reconcile()
"""


def reconciled(stack: Stack) -> str:
    """What `reconcile` found to do, and did, without waiting for its minute."""
    return stack.python(_RECONCILE_NOW).stdout


def _all_monitored(stack: Stack) -> bool:
    done = stack.ledger.outcomes()
    return all(f"monitor:{c.period}:{c.digest}" in done for c in stack.ledger.validations() if c.accepted)


@pytest.fixture(scope="module")
def same_data(stack: Stack) -> Iterator[None]:
    """The dataset is afterwards what it was, so that other tests train on the same rows."""
    root = stack.settings.root
    aside = stack.settings.state / "data-before"
    pointer = (root / "data.dvc").read_text()
    shutil.copytree(root / "data", aside, copy_function=shutil.copy2)
    try:
        yield
    finally:
        stack.fault()
        eventually(lambda: _all_monitored(stack), "monitoring of every accepted batch", within_s=90)
        shutil.rmtree(root / "data")
        aside.rename(root / "data")
        (root / "data.dvc").write_text(pointer)
        who = ["-c", "user.name=trimtab", "-c", "user.email=trimtab@localhost"]
        subprocess.run(
            ["git", "-C", str(root), *who, "commit", "--quiet", "--allow-empty", "-m", "Put back", "--", "data.dvc"],
            check=True,
        )
