"""What a person sees in Prefect's and MLflow's pages after the loop has run."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Stack

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)

DEPLOYMENTS = {
    "ingest": ["nightly", "on-request"],
    "drift-monitor": ["on-batch"],
    "retrain": ["on-drift", "nightly"],
    "reconcile": ["every-minute"],
}


@pytest.mark.parametrize(("flow", "names"), DEPLOYMENTS.items(), ids=list(DEPLOYMENTS))
def test_the_deployments_are_found_by_their_flow(page: Page, stack: Stack, flow: str, names: list[str]) -> None:
    page.goto(f"{_prefect(stack)}/deployments")
    page.get_by_placeholder("Search deployments").fill(flow)
    for name in names:
        row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True)).filter(has_text=flow)
        expect(row).to_contain_text("Ready")


def test_the_automation_that_retrains_on_drift_is_on(page: Page, stack: Stack) -> None:
    page.goto(f"{_prefect(stack)}/automations")
    page.get_by_role("link", name="retrain/on-drift", exact=True).click()
    expect(page.get_by_role("switch")).to_have_count(1)  # the page of one automation, no longer the list
    expect(page.get_by_role("link", name="on-drift", exact=True)).to_be_visible()
    expect(page.get_by_role("switch")).to_be_checked()


def test_a_retrain_that_drift_asked_for_is_completed(page: Page, stack: Stack) -> None:
    drifted = next(period for period in stack.replayed["periods"] if period["retrain_flow_run"])
    page.goto(f"{_prefect(stack)}/runs/flow-run/{drifted['retrain_flow_run']}")
    expect(page.get_by_text("Completed").first).to_be_visible()
    expect(page.get_by_text(f"retrain-{drifted['period']}").first).to_be_visible()
    expect(page.get_by_text("retrain/on-drift").first).to_be_visible()


def test_the_gates_verdict_can_be_read(page: Page, stack: Stack) -> None:
    judged = [period["gate"] for period in stack.replayed["periods"] if period["gate"]]
    page.goto(f"{_prefect(stack)}/artifacts/key/gate")
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()  # the newest
    expect(page.get_by_text(judged[-1]["reason"], exact=False).first).to_be_visible()


def test_the_champion_is_named_in_mlflows_registry(page: Page, stack: Stack) -> None:
    live = stack.ledger.live()
    assert live is not None
    release = stack.ledger.release(live.champion)
    assert release is not None
    page.goto(f"{stack.settings.tracking_uri}/#/models/{release.model_name}/versions/{release.model_version}")
    expect(page.get_by_role("status", name="champion")).to_be_visible()


def test_a_rollouts_steps_can_be_read_one_by_one(page: Page, stack: Stack) -> None:
    promoted = [rollout for rollout in stack.replayed["rollouts"] if rollout["promoted"]]
    assert promoted
    page.goto(f"{_prefect(stack)}/artifacts/key/rollout")
    expect(page.get_by_text("Rollout of", exact=False).first).to_be_visible()
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()  # the newest
    expect(page.get_by_text("answers users got", exact=False).first).to_be_visible()
    expect(page.get_by_text("canary 5%", exact=False).first).to_be_visible()


def _prefect(stack: Stack) -> str:
    return stack.settings.prefect_api.removesuffix("/api")
