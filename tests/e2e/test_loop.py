"""The closed loop, on real servers: what the replay did was done by the loop, not by the test."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stores import telemetry
from tests.conftest import Stack
from tests.e2e.conftest import reconciled, same_champion
from tests.waiting import eventually

pytestmark = pytest.mark.e2e


def test_the_drift_event_started_the_retrain(stack: Stack) -> None:
    """Prefect's own record says who made the run: the automation that waits for the event."""
    drifted = [p for p in stack.replayed["periods"] if p["decision"]["action"] == "retrain"]
    assert drifted, stack.replayed["periods"]
    run = stack.prefect(f"/flow_runs/{drifted[0]['retrain_flow_run']}")
    assert run["created_by"]["type"] == "AUTOMATION"
    assert run["parameters"]["decision"] == drifted[0]["decision"]["id"]
    assert run["state_type"] == "COMPLETED"
    assert "retrain/on-drift" in run["tags"]


def test_a_better_model_took_over_step_by_step_without_a_hand_on_it(stack: Stack) -> None:
    moves = stack.ledger.history()
    assert [m.version for m in moves] == list(range(1, len(moves) + 1))
    (rollout, *_) = [found for found in stack.replayed["rollouts"] if found["promoted"]]
    states = [(step["state"], step["share"]) for step in rollout["steps"]]
    assert states[:7] == [
        ("started", 0.0), ("probed", 0.0), ("shadow", 0.0), ("canary", 0.05), ("canary", 0.25), ("canary", 0.5),
        ("champion", 1.0),
    ]  # fmt: skip
    assert rollout["verdict"] == "promote"
    assert rollout["labels"] >= 500
    (period,) = [p for p in stack.replayed["periods"] if p["rollout"] == rollout["id"]]
    assert period["gate"]["passed"]
    assert period["promoted"] == rollout["release"]
    who = [(m.move, m.challenger_share) for m in moves if m.rollout == rollout["id"]]
    assert who[:5] == [("shadow", 0.0), ("canary", 0.05), ("canary", 0.25), ("canary", 0.5), ("promote", 0.0)]


def test_each_tail_number_met_one_model_at_a_time_and_the_split_is_what_the_ledger_says(stack: Stack) -> None:
    (rollout, *_) = [found for found in stack.replayed["rollouts"] if found["promoted"]]
    seen = telemetry.predictions(stack.settings.telemetry)
    mine = seen[seen["rollout"] == rollout["id"]]
    trial = mine[mine["propensity"] < 1]
    assert set(trial["release"]) == {rollout["release"], rollout["champion_before"]}
    for share in (0.05, 0.25, 0.5):
        is_at = np.isclose(trial["propensity"], np.where(trial["arm"] == "challenger", share, 1 - share))
        step = trial[is_at & (trial["received_at"] <= trial.loc[is_at, "received_at"].max())]
        if share != 0.5:  # at a half both arms look alike
            assert (step.groupby("tailnum")["arm"].nunique() == 1).all()
        keys = step.drop_duplicates("tailnum")
        expected = share * len(keys)
        assert abs((keys["arm"] == "challenger").sum() - expected) < 5 * np.sqrt(expected) + 5


def test_the_rollout_is_on_prefects_pages(stack: Stack) -> None:
    """A Markdown artifact with every step, and a progress artifact that ended at the end."""
    pages = stack.prefect("/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["rollout", "rollout-progress"]}}})
    found = {page["key"]: page for page in pages}
    assert "canary 50%" in found["rollout"]["data"]
    assert found["rollout-progress"]["type"] == "progress"


def test_every_answer_is_in_telemetry_and_the_summary_can_be_recomputed(stack: Stack) -> None:
    assert stack.replayed["totals"]["lost_predictions"] == 0
    march = next(p for p in stack.replayed["periods"] if p["period"] == "2013-03")
    seen = telemetry.joined(
        stack.settings.telemetry, datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)
    )
    known = seen[seen["label"].notna()]
    assert len(seen) == march["rows"]
    expected = roc_auc_score(known["label"].to_numpy(float), known["prediction"].to_numpy(float))
    assert np.isclose(march["metric"]["live"], expected)


def test_no_web_page_gives_prefect_or_mlflow_orders(stack: Stack) -> None:
    """The attack of a page whose origin is another: a run with a command of its own."""
    found = stack.prefect("/deployments/name/ingest/on-request")
    foreign = {"Host": "evil.example", "Origin": "http://evil.example"}
    for headers in (foreign, {"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        answer = httpx.post(
            f"{stack.settings.prefect_api}/deployments/{found['id']}/create_flow_run",
            json={"job_variables": {"command": "touch PROOF"}}, headers=headers, timeout=10,
        )  # fmt: skip
        assert answer.status_code == 403, headers
    asked = f"{stack.settings.tracking_uri}/api/2.0/mlflow/experiments/create"
    assert httpx.post(asked, json={"name": "theirs"}, headers=foreign, timeout=10).status_code == 403


def test_mlflow_follows_the_ledger(stack: Stack) -> None:
    live = stack.ledger.live()
    assert live is not None
    release = stack.ledger.release(live.champion)
    assert release is not None
    name = release.model_name
    found = httpx.get(
        f"{stack.settings.tracking_uri}/api/2.0/mlflow/registered-models/alias",
        params={"name": name, "alias": "champion"},
    ).json()["model_version"]
    assert int(found["version"]) == release.model_version


def test_the_dataset_versions_are_in_git_and_in_the_ledger(stack: Stack) -> None:
    versions = stack.ledger.datasets()
    committed = [v for v in versions if v.git_commit]
    assert len({v.hash for v in versions}) == len(versions) >= 5
    assert len(committed) == len(versions)


def test_a_retrain_on_the_same_data_releases_nothing(stack: Stack) -> None:
    with same_champion(stack):
        first = stack.prefect(_deployment(stack, "retrain/nightly"), {})["id"]
        assert (
            _ended(stack, first) == "COMPLETED"
        )  # tests before this one may have left other data, or another champion
        before = stack.ledger.live()
        runs = [stack.prefect(_deployment(stack, "retrain/nightly"), {})["id"] for _ in range(2)]
        for run in runs:
            assert _ended(stack, run) == "COMPLETED"
        assert stack.ledger.live() == before
    outcomes = stack.ledger.outcomes()
    assert {outcomes[f"retrain:run:{run}"].result for run in runs} == {"rejected"}
    tasks = stack.prefect("/task_runs/filter", {"task_runs": {"name": {"like_": "make_candidate"}}, "limit": 50})
    assert "Cached" in {task["state_name"] for task in tasks}, "what was trained is not trained again"


def test_what_was_deleted_in_mlflows_pages_is_restored_or_made_anew(stack: Stack) -> None:
    def mlflow(action: str, **body: str) -> None:
        answer = httpx.post(f"{stack.settings.tracking_uri}/api/2.0/mlflow/{action}", json=body, timeout=20)
        assert answer.status_code == 200, answer.text

    def retrained() -> str:
        run = stack.prefect(_deployment(stack, "retrain/nightly"), {})["id"]
        assert _ended(stack, run) == "COMPLETED"
        return str(stack.ledger.outcomes()[f"retrain:run:{run}"].evidence["run_id"])

    def stage(kind: str, **which: str) -> str:
        found = httpx.get(f"{stack.settings.tracking_uri}/api/2.0/mlflow/{kind}s/get", params=which, timeout=20).json()
        return str(found[kind].get("lifecycle_stage") or found[kind]["info"]["lifecycle_stage"])

    with same_champion(stack):
        candidate = retrained()
        mlflow("runs/delete", run_id=candidate)
        assert retrained() == candidate
        assert stage("run", run_id=candidate) == "active"
        mlflow("runs/delete-tag", run_id=candidate, key="trimtab.candidate")
        assert retrained() != candidate
    name = f"{stack.ledger.releases()[-1].model_name}-monitoring"
    found = httpx.get(
        f"{stack.settings.tracking_uri}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name}
    ).json()["experiment"]
    mlflow("experiments/delete", experiment_id=found["experiment_id"])
    reconciled(stack)
    assert stage("experiment", experiment_id=found["experiment_id"]) == "active"


KILLED_AT_THE_BAD_MOMENT = """
import os, signal, sys
from flows.drift_monitor import drift_monitor
from operations import monitoring
def all_die(ctx, decision):
    os.kill(int(sys.argv[1]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)  # or the event might wait here until the server is back
monitoring.announce = all_die
drift_monitor("2013-06")
"""


@pytest.mark.timeout(400)
def test_with_prefect_killed_between_decision_and_event_the_retrain_happens_exactly_once(stack: Stack) -> None:
    """The decision is in the ledger, the server and the run die, the event is lost; reconcile does what the event would
    have."""
    with same_champion(stack):
        pass  # no open rollout may promote a challenger on these requests
    _ask(stack, "2013-06")
    params = stack.settings.root / "params.yaml"
    kept = params.read_text()
    params.write_text(kept.replace("impact: 0.1", "impact: 0.001"))  # whatever moved asks for a retrain
    before = {d.id for d in stack.ledger.decisions()}
    try:
        stack.python(KILLED_AT_THE_BAD_MOMENT, str(stack.pid("prefect")), check=False)
    finally:
        params.write_text(kept)
    decision = next(d for d in stack.ledger.decisions() if d.id not in before)
    assert decision.action == "retrain"
    work = f"retrain:{decision.id}"
    eventually(lambda: stack.prefect("/health"), "Prefect again", within_s=60)
    reconciled(stack)
    outcome = eventually(lambda: stack.ledger.outcomes().get(work), "the retrain", within_s=120)
    assert outcome.result in ("rolling out", "rejected")
    assert len(stack.ledger.claims(work)) == 1
    owner = stack.prefect(f"/flow_runs/{stack.ledger.claims(work)[0].owner}")
    assert owner["idempotency_key"] == f"{work}#1", "reconcile, not the event, started it"
    asked = stack.prefect("/flow_runs/filter", {"flow_runs": {"tags": {"all_": ["retrain/on-drift"]}}})
    assert len([run for run in asked if run["parameters"].get("decision") == decision.id]) == 1
    assert "restarted" in stack.trimtab("status").stdout


def _ask(stack: Stack, period: str) -> None:
    """Users ask for predictions through a period, and the labels come in."""
    stack.python(
        "import sys\n"
        "from deployments.replay.traffic import Traffic\n"
        "from tasks import sources\n"
        "from trimtab.config import params\n"
        "from trimtab.config.settings import Settings\n"
        "place = Settings(); project = params.load(place.root); period = project.parse_period(sys.argv[1])\n"
        "traffic = Traffic(place.model_server, project.columns)\n"
        "rows = sources.fetch(place.root, project, period)\n"
        "traffic.send(rows); traffic.deliver(rows[project.columns.time].max())\n",
        period,
    )


def _deployment(stack: Stack, title: str) -> str:
    flow, name = title.split("/")
    found = stack.prefect(f"/deployments/name/{flow}/{name}")
    return f"/deployments/{found['id']}/create_flow_run"


def _ended(stack: Stack, run: str, *, within_s: float = 120) -> str:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        state = stack.prefect(f"/flow_runs/{run}")["state_type"]
        if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return str(state)
        time.sleep(0.3)
    return "still running"
