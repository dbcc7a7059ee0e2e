"""MLflow follows the ledger: what is missing there is added, what should not be there is removed, and no flow fails
while it is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operations import evaluation, live, monitoring, reconciliation, releases, training
from operations.context import ProjectContext
from stores.ledger import DecisionRecord, Ledger, RolloutStep
from stores.ledger.migrations import migrate
from tasks import orchestrator, tracking
from tasks.tracking import mlflow_runs
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings
from trimtab.evaluation.gate import GateResult
from trimtab.evaluation.metrics import Interval
from trimtab.evaluation.monitoring import Facts, MonitoringDecision, PeriodFinding

OLD, NEW = "0" * 64, "1" * 64


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking store in a folder of its own, with versions 1 and 2 of a model `m`."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow puts artifacts when it has no server
        yield f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> ProjectContext:
    """A project whose champion is version 1 of a model of its own, without Prefect's server."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(ledger)
    settings = Settings(project=tmp_path, home=tmp_path)
    monkeypatch.setattr(ProjectContext, "tracking", uri)
    for version, digest in ((1, OLD), (2, NEW)):
        ledger.record_release(digest, model_name=tmp_path.name, model_version=version, run_id="r", manifest={})
    ledger.switch(OLD, expected=0, move="promote", reason="first", actor="a")
    monkeypatch.setattr(monitoring, "log_monitoring", tracking.log_monitoring)
    monkeypatch.setattr(reconciliation, "GRACE", timedelta(0))
    project = {"name": tmp_path.name.replace("_", "-").strip("-")}
    return ProjectContext(settings, sample_rows.params(project=project), ledger)


def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("it was refused")


def decision(id: str = "d1", action: Any = "block") -> MonitoringDecision:
    facts = Facts(
        period="2013-03", release=OLD, rows=9, distances={"price (€)": 0.5, "50%": 0.1}, importances={"50%": 1.0}
    )
    finding = PeriodFinding(period="2013-03", release=OLD)
    return MonitoringDecision(id=id, action=action, cause="c", kind="data", facts=facts, finding=finding)


def runs_of(ctx: ProjectContext, id: str) -> list[Any]:
    client = mlflow_runs.connect(ctx.tracking)
    experiment = mlflow_runs.active_experiment(client, f"{ctx.params.project.name}-monitoring")
    return list(client.search_runs([experiment], f"tags.`{tracking.DECISION}` = '{id}'"))


def test_a_decision_that_mlflow_lacks_is_logged_once(ctx: ProjectContext) -> None:
    made = decision()
    evidence = {**made.model_dump(mode="json"), "impact": made.facts.impact()}
    ctx.ledger.record_decision(DecisionRecord("d1", "2013-03", OLD, "block", "c", evidence))
    assert reconciliation.missing_in_mlflow(ctx) == ["the decision d1 was logged to MLflow"]
    assert reconciliation.missing_in_mlflow(ctx) == []
    (run,) = runs_of(ctx, "d1")
    assert run.data.metrics["impact"] == 0.1
    assert run.data.tags["action"] == "block"


def test_a_run_too_many_is_removed_and_a_deleted_one_restored(ctx: ProjectContext) -> None:
    monitoring.record(ctx, decision())
    monitoring.log(ctx, decision(), None)
    (run,) = runs_of(ctx, "d1")
    client = mlflow_runs.connect(ctx.tracking)
    other = client.create_run(run.info.experiment_id, tags={tracking.DECISION: "d1"})
    client.set_terminated(other.info.run_id)
    assert reconciliation.missing_in_mlflow(ctx) == []
    assert [left.info.run_id for left in runs_of(ctx, "d1")] == [run.info.run_id]
    client.delete_run(run.info.run_id)
    assert reconciliation.missing_in_mlflow(ctx) == []
    assert len(runs_of(ctx, "d1")) == 1


def test_broken_data_are_alerted_also_while_mlflow_is_away(
    ctx: ProjectContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(ProjectContext, "tracking", "http://127.0.0.1:9")
    monkeypatch.setattr(orchestrator, "create_markdown_artifact", refuse)
    made = decision()
    monitoring.record(ctx, made)
    monitoring.announce(ctx, made)
    monitoring.publish(ctx, made, "<html>")
    assert [alert.kind for alert in ctx.ledger.alerts()] == ["data broken"]
    notes = capsys.readouterr().out
    assert "the decision in MLflow" in notes
    assert "the artifact decision is missing" in notes


def versions(ctx: ProjectContext, count: int) -> Any:
    client = mlflow_runs.connect(ctx.tracking)
    run = client.create_run(mlflow_runs.active_experiment(client, "versions")).info
    client.create_registered_model(ctx.root.name)
    for _ in range(count):
        client.create_model_version(ctx.root.name, f"{run.artifact_uri}/model", run.run_id)
    return client


def test_the_challengers_alias_goes_when_its_rollout_is_superseded(ctx: ProjectContext) -> None:
    client = versions(ctx, 2)

    def aliases() -> dict[str, int]:
        found = client.get_registered_model(ctx.root.name).aliases
        return {alias: int(version) for alias, version in found.items()}

    ctx.ledger.start_rollout("r1", release=NEW, champion_before=OLD, strategy="rollout", cause="c", policy={})
    ctx.ledger.step_rollout("r1", 1, "started")
    ctx.ledger.switch(
        OLD, expected=1, move="shadow", reason="c", actor="a", rollout="r1", challenger=NEW,
        step=RolloutStep("r1", 2, "shadow", {"share": 0.0}),
    )  # fmt: skip
    live.sync_aliases(ctx)
    assert aliases() == {"champion": 1, "challenger": 2}
    ctx.ledger.switch(OLD, expected=2, move="promote", reason="at once", actor="a")
    assert live.sync_aliases(ctx) == ["MLflow's alias challenger was removed from version 2"]
    assert live.sync_aliases(ctx) == []
    assert aliases() == {"champion": 1}


def test_a_live_version_that_was_deleted_in_mlflow_alerts_once_and_fails_nothing(ctx: ProjectContext) -> None:
    client = versions(ctx, 1)
    client.delete_model_version(ctx.root.name, "1")
    for _ in range(3):
        assert live.sync_aliases(ctx) == []
    (alert,) = ctx.ledger.alerts()
    assert alert.kind == "model version deleted"
    assert "users are answered as before" in alert.message


def test_a_candidate_whose_run_is_gone_from_mlflow_is_made_anew(
    ctx: ProjectContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached task as Prefect has it: the old result, until the cache is refreshed."""
    (ctx.root / "schema.yaml").write_text("columns: {}\n")
    client = mlflow_runs.connect(ctx.tracking)
    experiment = mlflow_runs.active_experiment(client, "candidates")
    made: list[str] = ["0" * 32]

    class Cached:
        def __call__(self, **_: Any) -> str:
            return made[-1]

        def with_options(self, *, refresh_cache: bool) -> Cached:
            assert refresh_cache
            made.append(str(client.create_run(experiment, tags={"trimtab.candidate": "key"}).info.run_id))
            return self

    monkeypatch.setattr(training, "make_candidate", Cached())
    run = training.train_candidate(ctx, "v", "2013-02", "outs: []\n")
    assert len(made) == 2
    client.delete_run(run)
    assert training.train_candidate(ctx, "v", "2013-02", "outs: []\n") == run
    assert client.get_run(run).info.lifecycle_stage == "active"


def test_a_candidate_that_was_the_challenger_may_pass_again_once_it_is_not(ctx: ProjectContext) -> None:
    """Its older pass is no new record, so the newest said that it is the challenger, and register refused it."""
    candidate: Any = SimpleNamespace(run_id="r1")
    known = Interval(0.7, 0.6, 0.8)
    passed = GateResult(True, "better", "roc_auc", 100, known, None, None)
    failed = GateResult(False, "the candidate is the same model as the challenger", "roc_auc", 100, known, None, None)
    evaluation.record(ctx, candidate, ctx.ledger.live(), passed)
    time.sleep(1.1)  # SQLite's clock counts seconds
    shadow = ctx.ledger.switch(OLD, expected=1, move="shadow", reason="c", actor="a", challenger=NEW)
    for _ in range(2):
        evaluation.record(ctx, candidate, shadow, failed)
    with pytest.raises(releases.GateNotPassed):
        releases.require_pass(ctx, "r1")
    time.sleep(1.1)
    back = ctx.ledger.switch(OLD, expected=2, move="rollback", reason="c", actor="a")
    evaluation.record(ctx, candidate, back, passed)
    assert releases.require_pass(ctx, "r1") == "better"
