"""Do what the ledger says must happen and has not: start missing runs, advance rollouts, deliver alerts.

Events are fast and get lost; this is the guarantee behind them. Every function here is safe to repeat, does nothing
when nothing is missing, and returns what it did, in words.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from operations import announcements, monitoring, retrains, rollouts, validation
from operations.context import ProjectContext, short
from operations.retrains import MAX_ATTEMPTS
from operations.targets.contract import pending_rollout
from stores.ledger import utc
from tasks import alerts, orchestrator

LOST: Final = {"FAILED", "CRASHED", "CANCELLED"}
GRACE = timedelta(seconds=20)
"""How long a new record is left to the fast path: the event, or the flow that announces it."""
INGEST_GRACE: Final = timedelta(minutes=5)  # ingest validates what it has landed
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


def failed_runs(ctx: ProjectContext) -> list[str]:
    """Alert about flow runs that failed or crashed, and end the runs inside them."""
    failed = orchestrator.list_failed_runs()
    done = [f"{name} ended with its parent" for name in orchestrator.crash_orphaned_subflows([r.id for r in failed])]
    for run in failed:
        message = f"{run.deployment} {run.state.lower()}: {run.message}"
        evidence = {"flow_run": run.id, "state": run.state, "name": run.name}
        kind = f"flow run {run.state.lower()}"
        if ctx.raise_alert(f"run:{run.id}", kind=kind, message=message, evidence=evidence):
            done.append(f"{ctx.params.project.name}: {message}")
    return done


def pending_alerts(ctx: ProjectContext) -> list[str]:
    """Deliver alerts that have not reached every channel."""
    return [f"alert {id} delivered" for id in alerts.deliver_pending(ctx.ledger, ctx.alert_channels, grace=GRACE)]
