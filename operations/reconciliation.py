"""Do what the ledger says must happen and has not: start missing runs, advance rollouts, deliver alerts.

Events are fast and get lost; this is the guarantee behind them. Every function here is safe to repeat, does nothing
when nothing is missing, and returns what it did, in words.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from operations import announcements, experiment_reports, experiments, monitoring, retrains, rollouts, validation
from operations.context import ProjectContext, short
from operations.retrains import MAX_ATTEMPTS
from operations.targets.contract import pending_rollout
from stores.ledger import Alert, utc
from tasks import alerts, orchestrator, tracking
from tasks.orchestrator import FailedRun

LOST: Final = {"FAILED", "CRASHED", "CANCELLED"}
GRACE = timedelta(seconds=20)
"""How long a new record is left to the fast path: the event, or the flow that announces it."""
INGEST_GRACE: Final = timedelta(minutes=5)  # ingest validates what it has landed
REMINDER: Final = timedelta(days=1)
"""How long an alert about failing runs stands for later ones with the same cause."""
RECORDS: Final = 20
"""How many of the newest decisions are looked for in MLflow."""
VALIDATE, RETRAIN, MONITOR, DEPLOY = (
    "validate/on-request", "retrain/on-drift", "drift-monitor/on-batch", "deploy/on-request",
)  # fmt: skip


def missing_validations(ctx: ProjectContext) -> list[str]:
    """Start validate for the last landing of each period that its run did not validate."""
    outcomes, started = ctx.ledger.outcomes(), []
    for period, landing in ctx.ledger.landings().items():
        work = validation.work_of(landing)
        if work not in outcomes and _is_due(landing.recorded_at, INGEST_GRACE):
            started += _start_unless_active(ctx, VALIDATE, work, {"period": period, "batch": landing.digest})
    return started


def missing_retrains(ctx: ProjectContext) -> list[str]:
    """Start retrain for decisions that no run has finished or is working on; alert after MAX_ATTEMPTS lost runs."""
    outcomes, started = ctx.ledger.outcomes(), []
    for decision in ctx.ledger.decisions():
        work, parameters = retrains.work_of(decision.id), {"decision": decision.id}
        if decision.action != "retrain" or work in outcomes or not _is_due(decision.recorded_at, GRACE):
            continue
        attempt = retrains.next_attempt(ctx, work)
        if attempt is not None and orchestrator.has_active_run(RETRAIN, parameters):
            continue  # the event's run waits for a worker, or for its container
        if attempt is not None:
            run = orchestrator.start_run(RETRAIN, key=f"{work}#{attempt}", parameters=parameters)
            started.append(f"retrain for {decision.id}: run {run}")
        elif len(ctx.ledger.claims(work)) >= MAX_ATTEMPTS:
            message = f"the retrain for {decision.id} was lost {MAX_ATTEMPTS} times"
            ctx.raise_alert(f"lost:{work}", kind="retrain lost", message=message, evidence=parameters)
    return started


def missing_monitoring(ctx: ProjectContext) -> list[str]:
    """Start drift-monitor for accepted batches without a decision."""
    outcomes, started = ctx.ledger.outcomes(), []
    for result in ctx.ledger.validations():
        work = monitoring.work_of(result.period, result.digest)
        if result.accepted and work not in outcomes and _is_due(result.recorded_at, GRACE):
            started += _start_unless_active(ctx, MONITOR, work, {"period": result.period, "batch": result.digest})
    return started


def missing_deploy(ctx: ProjectContext) -> list[str]:
    """Start deploy for the pending rollout, when no run works on it any more."""
    pending = pending_rollout(ctx.ledger)
    if pending is None or not _is_due(pending.recorded_at, GRACE):
        return []
    parameters = {"release": pending.release, "cause": pending.cause, "at_once": pending.strategy == "switch"}
    return _start(ctx, DEPLOY, f"rollout:{pending.id}", parameters)


def _start_unless_active(ctx: ProjectContext, deployment: str, work: str, parameters: dict[str, Any]) -> list[str]:
    return [] if orchestrator.has_active_run(deployment, parameters) else _start(ctx, deployment, work, parameters)


def _start(ctx: ProjectContext, deployment: str, work: str, parameters: dict[str, Any]) -> list[str]:
    """Have one run do *work*: the active one, or another after a lost one; alert after MAX_ATTEMPTS lost runs."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        run = orchestrator.start_run(deployment, key=f"{work}#{attempt}", parameters=parameters)
        if orchestrator.run_state(run) not in LOST:
            return [f"{deployment} for {work}: run {run}"]
    message = f"{deployment} for {work} did not work {MAX_ATTEMPTS} times"
    ctx.raise_alert(f"lost:{work}", kind="work lost", message=message, evidence=parameters)
    return []


def _is_due(recorded_at: datetime | None, grace: timedelta) -> bool:
    """Whether the fast path has had its time."""
    return recorded_at is None or datetime.now(UTC) - utc(recorded_at) > grace


def open_rollouts(ctx: ProjectContext) -> list[str]:
    """Advance every rollout that has a challenger or is in probation."""
    done = []
    for rollout, before in rollouts.list_open(ctx):
        update = rollouts.advance(ctx, rollout.id)
        while update.stepped and update.state.is_challenging:
            update = rollouts.advance(ctx, rollout.id)
        if update.state.steps != before.steps:
            done.append(f"rollout of {short(rollout.release)}: {before.title} to {update.state.title}")
    return done


def unannounced_steps(ctx: ProjectContext) -> list[str]:
    """Alert about the newest rollout's end, in case the run that ended it was killed before it did."""
    found = ctx.ledger.rollouts()
    if not found or ctx.ledger.live() is None:
        return []
    newest, state = found[-1], rollouts.state_of(ctx, found[-1].id)
    if newest.strategy != "rollout" or state.steps < 3:  # `rollout_start.reject` alerts about the others
        return []
    return ["a rollout's end was announced again"] if announcements.alert(ctx, newest, state) else []


def missing_in_mlflow(ctx: ProjectContext) -> list[str]:
    """Let each of the newest decisions and ended experiments have one finished run in MLflow: log what is missing
    (a decision without its page), restore what was deleted, delete what is there twice."""
    done, project = list[str](), ctx.params.project.name
    decisions = [d for d in ctx.ledger.decisions()[-RECORDS:] if _is_due(d.recorded_at, GRACE)]
    known = tracking.finished_records(ctx.tracking, project=project, tag=tracking.DECISION) if decisions else set()
    for decision in decisions:
        if decision.id not in known:
            monitoring.log(ctx, monitoring.decision_of(decision), None)
            done.append(f"the decision {decision.id} was logged to MLflow")
    reported = ctx.ledger.outcomes()
    ended = [r for r, _ in experiments.list_begun(ctx) if experiment_reports.work_of(r.id) in reported]
    known = tracking.finished_records(ctx.tracking, project=project, tag=tracking.EXPERIMENT) if ended else set()
    for rollout in ended:
        if rollout.id not in known:
            found = experiment_reports.report(ctx, rollout.id)
            experiment_reports.log_report(ctx, rollout.id, found, experiment_reports.to_markdown(ctx, found))
            done.append(f"the report of {rollout.id} was logged to MLflow")
    return done


def failed_runs(ctx: ProjectContext) -> list[str]:
    """Alert about flow runs that failed or crashed, once for each cause, and end the runs inside them.

    The alert of the first run stands for those that fail for the same cause within REMINDER, until a run of the
    deployment completes.
    """
    failed = sorted(orchestrator.list_failed_runs(), key=lambda run: run.ended)
    done = [f"{name} ended with its parent" for name in orchestrator.crash_orphaned_subflows([r.id for r in failed])]
    raised = {alert.id: alert for alert in ctx.ledger.alerts() if "cause" in alert.evidence}
    recoveries: dict[str, datetime | None] = {}
    for run in failed:
        earlier = [alert for alert in raised.values() if alert.evidence["cause"] == run.cause]
        if f"run:{run.id}" in raised or any(_stands_for(alert, run, recoveries) for alert in earlier):
            continue
        message = f"{run.deployment} {run.state.lower()}: {run.message}"
        evidence = {"flow_run": run.id, "state": run.state, "name": run.name, "cause": run.cause,
                    "deployment": run.deployment, "ended": run.ended.isoformat()}  # fmt: skip
        kind, id = f"flow run {run.state.lower()}", f"run:{run.id}"
        if ctx.raise_alert(id, kind=kind, message=message, evidence=evidence):
            done.append(f"{ctx.params.project.name}: {message}")
        raised[id] = Alert(id, kind, message, evidence, datetime.now(UTC))
    return done


def _stands_for(alert: Alert, run: FailedRun, recoveries: dict[str, datetime | None]) -> bool:
    """Whether *run* failed while what *alert* reports went on. *recoveries* remembers when each alert's deployment
    completed again."""
    ended = datetime.fromisoformat(alert.evidence["ended"])
    if not timedelta(0) <= run.ended - ended < REMINDER:
        return False
    if alert.id not in recoveries:
        recoveries[alert.id] = orchestrator.completed_after(alert.evidence["deployment"], ended)
    recovered = recoveries[alert.id]
    return recovered is None or recovered > run.ended


def pending_alerts(ctx: ProjectContext) -> list[str]:
    """Deliver alerts that have not reached every channel."""
    return [f"alert {id} delivered" for id in alerts.deliver_pending(ctx.ledger, ctx.alert_channels, grace=GRACE)]
