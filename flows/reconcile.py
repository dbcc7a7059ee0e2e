"""Reconcile: what the ledger says must happen and has not, is started. Events are fast and get lost; this is the
guarantee behind them, run every minute and after every failed run. With nothing to do it does nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow

from flows.retrain import MAX_ATTEMPTS, next_attempt, work_of
from flows.validate import work_of as work_of_landing
from operations import experiments
from operations import rollouts as rollouts_module
from operations.context import ProjectContext, load_context, short
from operations.targets import contract
from tasks import alerts, orchestrator, tracking
from trimtab.rollout import state_machine

LOST = {"FAILED", "CRASHED", "CANCELLED"}
GRACE = timedelta(seconds=20)
"""How long what was recorded is left to the fast path: the event, or the flow that tells of it."""
INGEST_GRACE = timedelta(minutes=5)  # it validates what it has landed by itself
VALIDATE, RETRAIN, MONITOR, DEPLOY = (
    "validate/on-request", "retrain/on-drift", "drift-monitor/on-batch", "deploy/on-request",
)  # fmt: skip


class Unfinished(RuntimeError):
    """Some of what is owed could not be looked at; a minute later it is tried again."""


@flow(flow_run_name="reconcile")
def reconcile() -> list[str]:
    """Start what is owed, follow the ledger, tell of failures; what was done, in words. What fails keeps nothing else
    from being done: it is raised at the end, as Unfinished."""
    ctx, done, troubles = load_context(), list[str](), list[Exception]()
    parts = (owed_validation, owed_retrains, owed_monitoring, begun_rollouts, running_rollouts, experiments.settle,
             contract.settle, untold_steps, alias, failures, waiting_alerts)  # fmt: skip
    for part in parts:
        try:
            done += part(ctx)
        except Exception as error:  # noqa: BLE001 - raised below: a store that is away must not keep alerts from people
            troubles.append(error)
    print("\n".join(done) or "Nothing is owed.")
    if troubles:
        raise Unfinished("; ".join(f"{type(error).__name__}: {error}" for error in troubles)) from troubles[0]
    return done


def _is_due(recorded_at: datetime | None, grace: timedelta) -> bool:
    """Whether the fast path had its chance."""
    if recorded_at is None:
        return True
    known = recorded_at if recorded_at.tzinfo else recorded_at.replace(tzinfo=UTC)
    return datetime.now(UTC) - known > grace


def owed_validation(ctx: ProjectContext) -> list[str]:
    """The last landing of each period, when whoever landed it did not get to validate it."""
    outcomes, started = ctx.ledger.outcomes(), []
    for period, landing in ctx.ledger.landings().items():
        work = work_of_landing(landing)
        if work not in outcomes and _is_due(landing.recorded_at, INGEST_GRACE):
            parameters = {"period": period, "batch": landing.digest}
            if not orchestrator.has_active_run(VALIDATE, parameters):
                started += try_again(ctx, VALIDATE, work, parameters)
    return started


def owed_retrains(ctx: ProjectContext) -> list[str]:
    """Decisions to retrain that no run has finished and none is at."""
    outcomes, started = ctx.ledger.outcomes(), []
    for decision in ctx.ledger.decisions():
        work = work_of(decision.id)
        if decision.action != "retrain" or work in outcomes or not _is_due(decision.recorded_at, GRACE):
            continue
        attempt = next_attempt(ctx, work)
        if attempt is not None and orchestrator.has_active_run(RETRAIN, {"decision": decision.id}):
            continue  # the event's run waits for a worker, or for its container
        if attempt is not None:
            run = orchestrator.start_run(RETRAIN, key=f"{work}#{attempt}", parameters={"decision": decision.id})
            started.append(f"retrain for {decision.id}: run {run}")
        elif len(ctx.ledger.claims(work)) >= MAX_ATTEMPTS:
            message = f"{ctx.params.project.name}: the retrain for {decision.id} was lost {MAX_ATTEMPTS} times"
            alerts.raise_alert(
                ctx.ledger, ctx.alert_channels, id=f"lost:{work}", kind="retrain lost", message=message,
                evidence={"decision": decision.id},
            )  # fmt: skip
    return started


def owed_monitoring(ctx: ProjectContext) -> list[str]:
    """Accepted batches that nobody has looked at."""
    outcomes, started = ctx.ledger.outcomes(), []
    for check in ctx.ledger.validations():
        work = f"monitor:{check.period}:{check.digest}"
        if check.accepted and work not in outcomes and _is_due(check.recorded_at, GRACE):
            parameters = {"period": check.period, "batch": check.digest}
            if not orchestrator.has_active_run(MONITOR, parameters):
                started += try_again(ctx, MONITOR, work, parameters)
    return started


def try_again(ctx: ProjectContext, deployment: str, work: str, parameters: dict[str, Any]) -> list[str]:
    """Have one run at *work*: the one that is at it, or another after one that did not end well; a person is told
    when MAX_ATTEMPTS of them did not."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        run = orchestrator.start_run(deployment, key=f"{work}#{attempt}", parameters=parameters)
        if orchestrator.run_state(run) not in LOST:
            return [f"{deployment} for {work}: run {run}"]
    message = f"{ctx.params.project.name}: {deployment} for {work} did not work {MAX_ATTEMPTS} times"
    alerts.raise_alert(
        ctx.ledger, ctx.alert_channels, id=f"lost:{work}", kind="work lost", message=message, evidence=dict(parameters)
    )
    return []


def begun_rollouts(ctx: ProjectContext) -> list[str]:
    """The rollout that has begun, when nobody is at it any more."""
    newest = contract.begun(ctx.ledger)
    if newest is None or not _is_due(newest.recorded_at, GRACE):
        return []
    parameters = {
        "release": newest.release, "cause": newest.cause, "at_once": newest.strategy == "switch",
    }  # fmt: skip
    return try_again(ctx, DEPLOY, f"rollout:{newest.id}", parameters)


def running_rollouts(ctx: ProjectContext) -> list[str]:
    """Look at every rollout that is not over, and take the steps that this allows."""
    done = []
    for row, before in rollouts_module.unfinished(ctx):
        outcome = rollouts_module.advance(ctx, row.id)
        while outcome.moved and outcome.at.is_challenging:
            outcome = rollouts_module.advance(ctx, row.id)
        if outcome.at.steps != before.steps:
            done.append(f"rollout of {short(row.release)}: {before.title} to {outcome.at.title}")
    return done


def untold_steps(ctx: ProjectContext) -> list[str]:
    """Tell of the newest rollout's last step, in case whoever took it died before saying so; told once."""
    rollouts, live = ctx.ledger.rollouts(), ctx.ledger.live()
    if not rollouts or live is None:
        return []
    row = rollouts[-1]
    at = state_machine.current_state(ctx.ledger.rollout_steps(row.id))
    if at.phase not in ("rolled back", "reverted") or row.strategy != "rollout" or at.steps < 3:
        return []
    return ["a rollout's end was told again"] if rollouts_module.warn(ctx, row, at) else []


def alias(ctx: ProjectContext) -> list[str]:
    """MLflow's champion is the ledger's."""
    live = ctx.ledger.live()
    released = ctx.ledger.release(live.champion) if live else None
    if released is None:
        return []
    name, version = released.model_name, released.model_version
    if tracking.alias_version(ctx.tracking, name=name, alias="champion") == version:
        return []
    tracking.set_champion(ctx.tracking, name=name, version=version)
    return [f"MLflow's champion is version {version} again"]


def failures(ctx: ProjectContext) -> list[str]:
    """Flow runs that failed or crashed and that nobody was told of; what was a part of them has ended too."""
    lost = orchestrator.list_failed_runs()
    told = [f"{name} ended with its parent" for name in orchestrator.crash_orphaned_subflows([run.id for run in lost])]
    for run in lost:
        message = f"{ctx.params.project.name}: {run.deployment} {run.state.lower()}: {run.message}"
        evidence = {"flow_run": run.id, "state": run.state, "name": run.name}
        is_new = alerts.raise_alert(
            ctx.ledger, ctx.alert_channels, id=f"run:{run.id}", kind=f"flow run {run.state.lower()}", message=message,
            evidence=evidence,
        )  # fmt: skip
        told += [message] if is_new else []
    return told


def waiting_alerts(ctx: ProjectContext) -> list[str]:
    """Deliver what has not reached everybody."""
    return [f"alert {id} delivered" for id in alerts.deliver_pending(ctx.ledger, ctx.alert_channels, grace=GRACE)]
