"""Runs whose worker or container is lost, against a real Prefect server: their end is told, and their place is free."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.states import Cancelled, Pending

from deployments.crash_detection import LOST_RUNS, UNSTARTED_RUNS, ensure_crash_automations, lost_runs_automation
from tests.deployments.workers import LIGHT_POOL, FlowRunClient, Worker, read_report

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warm worker forks: Linux only")


@pytest.fixture
def no_automations(light_runs: FlowRunClient) -> Iterator[None]:
    """None before, none afterwards."""
    yield
    for name in (LOST_RUNS, UNSTARTED_RUNS):
        for automation in light_runs.client.read_automations_by_name(name):
            light_runs.client.delete_automation(automation.id)


def test_the_crash_automations_are_left_alone_when_they_are_right(
    light_runs: FlowRunClient, no_automations: None
) -> None:
    def found(name: str) -> list[Any]:
        return light_runs.client.read_automations_by_name(name)

    ensure_crash_automations(silent_s=90)
    before = found(LOST_RUNS) + found(UNSTARTED_RUNS)
    ensure_crash_automations(silent_s=90)
    assert [automation.id for automation in found(LOST_RUNS) + found(UNSTARTED_RUNS)] == [each.id for each in before]
    assert len(before) == 2

    light_runs.client.create_automation(lost_runs_automation(within_s=30))
    ensure_crash_automations(silent_s=120)
    (changed,) = found(LOST_RUNS)
    assert changed.trigger.within.total_seconds() == 120


def test_a_run_that_was_taken_and_never_begins_is_reported_crashed_and_gives_its_place_back(
    light_runs: FlowRunClient, no_automations: None
) -> None:
    """As when a worker is killed between taking a run and starting its container."""
    ensure_crash_automations(start_s=10)
    client = light_runs.client
    deployment = client.read_deployment_by_name(f"fail/{LIGHT_POOL}")
    client.update_deployment(
        deployment.id,
        DeploymentUpdate(concurrency_limit=1, concurrency_options=ConcurrencyOptions(collision_strategy="CANCEL_NEW")),
    )
    first, second, third = (light_runs.run("fail") for _ in range(3))
    client.set_flow_run_state(first.id, Pending())
    client.set_flow_run_state(second.id, Pending())
    assert light_runs.state(second) == "Cancelled", "there is place for one"
    assert light_runs.finish(first) == "Crashed"
    assert "never started" in light_runs.message(first)
    client.set_flow_run_state(third.id, Pending())
    assert light_runs.state(third) == "Pending", "the place is free again"
    client.set_flow_run_state(third.id, Cancelled())
    client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=None))


def test_a_run_lost_with_its_worker_is_reported_crashed(
    light_worker: Worker, light_runs: FlowRunClient, no_automations: None, tmp_path: Path
) -> None:
    ensure_crash_automations(silent_s=10)
    run = light_runs.run("nap", seconds=60, path=str(tmp_path / "pids"))
    read_report(tmp_path / "pids")
    time.sleep(2)  # the first heartbeat has to arrive
    descendants = light_worker.descendants()
    light_worker.process.kill()
    for member in descendants:
        member.kill()
    assert light_runs.finish(run, seconds=60) == "Crashed"
    assert "no heartbeat" in light_runs.message(run)
