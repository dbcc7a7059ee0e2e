"""Reconcile: what the ledger says must happen and has not, is started. Events are fast and get lost; this is the
guarantee behind them, run every minute and after every failed run. With nothing to do it does nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow

from flows import conduct, observe, targets
from flows.door import Here, here, short
from flows.retrain import MAX_ATTEMPTS, next_attempt, work_of
from tasks import alerts, orchestrator, tracking
from trimtab import rollout
from trimtab.experiment import STRATEGY

LOST = {"FAILED", "CRASHED", "CANCELLED"}
GRACE = timedelta(seconds=20)
RETRAIN, MONITOR, DEPLOY = "retrain/on-drift", "drift-monitor/on-batch", "deploy/on-request"


@flow(flow_run_name="reconcile")
def reconcile() -> list[str]:
    """Start what is owed, follow the ledger, tell of failures; what was done, in words."""
    place = here()
    done = [*owed_retrains(place), *owed_monitoring(place), *begun_rollouts(place), *running_rollouts(place),
            *observe.settle(place), *targets.settle(place), *untold_steps(place), *alias(place),
            *failures(place)]  # fmt: skip
    done += [f"alert {id} delivered" for id in alerts.deliver_waiting(place.ledger, place.listeners)]
    print("\n".join(done) or "Nothing is owed.")
    return done


def _is_due(recorded_at: datetime | None) -> bool:
    """Whether the fast path had its chance."""
    if recorded_at is None:
        return True
    known = recorded_at if recorded_at.tzinfo else recorded_at.replace(tzinfo=UTC)
    return datetime.now(UTC) - known > GRACE


def owed_retrains(place: Here) -> list[str]:
    """Decisions to retrain that no run has finished and none is at."""
    outcomes, started = place.ledger.outcomes(), []
    for decision in place.ledger.decisions():
        work = work_of(decision.id)
        if decision.action != "retrain" or work in outcomes or not _is_due(decision.recorded_at):
            continue
        attempt = next_attempt(place, work)
        if attempt is not None and orchestrator.is_asked_for(RETRAIN, {"decision": decision.id}):
            continue  # the event's run waits for a worker, or for its container
        if attempt is not None:
            run = orchestrator.start(RETRAIN, key=f"{work}#{attempt}", parameters={"decision": decision.id})
            started.append(f"retrain for {decision.id}: run {run}")
        elif len(place.ledger.claims(work)) >= MAX_ATTEMPTS:
            message = f"{place.params.project.name}: the retrain for {decision.id} was lost {MAX_ATTEMPTS} times"
            alerts.raise_alert(
                place.ledger, place.listeners, id=f"lost:{work}", kind="retrain lost", message=message,
                evidence={"decision": decision.id},
            )  # fmt: skip
    return started


def owed_monitoring(place: Here) -> list[str]:
    """Accepted batches that nobody has looked at."""
    outcomes, started = place.ledger.outcomes(), []
    for check in place.ledger.checks():
        work = f"monitor:{check.period}:{check.digest}"
        if check.accepted and work not in outcomes and _is_due(check.recorded_at):
            parameters = {"period": check.period, "batch": check.digest}
            if not orchestrator.is_asked_for(MONITOR, parameters):
                started += try_again(place, MONITOR, work, parameters)
    return started


def try_again(place: Here, deployment: str, work: str, parameters: dict[str, Any]) -> list[str]:
    """Have one run at *work*: the one that is at it, or another after one that did not end well; a person is told
    when MAX_ATTEMPTS of them did not."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        run = orchestrator.start(deployment, key=f"{work}#{attempt}", parameters=parameters)
        if orchestrator.run_state(run) not in LOST:
            return [f"{deployment} for {work}: run {run}"]
    message = f"{place.params.project.name}: {deployment} for {work} did not work {MAX_ATTEMPTS} times"
    alerts.raise_alert(
        place.ledger, place.listeners, id=f"lost:{work}", kind="work lost", message=message, evidence=dict(parameters)
    )
    return []


def begun_rollouts(place: Here) -> list[str]:
    """The newest rollout, when its release was never let in and nobody is at it any more; others were overtaken."""
    rollouts = [row for row in place.ledger.rollouts() if row["strategy"] != STRATEGY]
    if not rollouts:
        return []
    newest, live = rollouts[-1], place.ledger.live()
    at = rollout.standing(place.ledger.rollout_steps(newest["id"]))
    was_overtaken = (live.champion if live else None) != newest["champion_before"]
    if at.state not in ("started", "probed") or was_overtaken or not _is_due(newest["recorded_at"]):
        return []
    parameters = {
        "release": newest["release"], "cause": newest["cause"], "at_once": newest["strategy"] == "switch",
    }  # fmt: skip
    return try_again(place, DEPLOY, f"rollout:{newest['id']}", parameters)


def running_rollouts(place: Here) -> list[str]:
    """Look at every rollout that is not over, and take the steps that this allows."""
    done = []
    for row, before in conduct.unfinished(place):
        outcome = conduct.advance(place, row["id"])
        while outcome.moved and outcome.at.on_trial:
            outcome = conduct.advance(place, row["id"])
        if outcome.at.steps != before.steps:
            done.append(f"rollout of {short(row['release'])}: {before.words} to {outcome.at.words}")
    return done


def untold_steps(place: Here) -> list[str]:
    """Tell of the newest rollout's last step, in case whoever took it died before saying so; told once."""
    rollouts, live = place.ledger.rollouts(), place.ledger.live()
    if not rollouts or live is None:
        return []
    row = rollouts[-1]
    at = rollout.standing(place.ledger.rollout_steps(row["id"]))
    if at.state not in ("rolled back", "reverted") or row["strategy"] != "rollout" or at.steps < 3:
        return []
    return ["a rollout's end was told again"] if conduct.warn(place, row, at) else []


def alias(place: Here) -> list[str]:
    """MLflow's champion is the ledger's."""
    live = place.ledger.live()
    released = place.ledger.release(live.champion) if live else None
    if released is None:
        return []
    name, version = released["model_name"], int(released["model_version"])
    if tracking.aliased(place.tracking, name=name, alias="champion") == version:
        return []
    tracking.crown(place.tracking, name=name, version=version)
    return [f"MLflow's champion is version {version} again"]


def failures(place: Here) -> list[str]:
    """Flow runs that failed or crashed and that nobody was told of; what was a part of them has ended too."""
    lost = orchestrator.failed_runs()
    told = [f"{name} ended with its parent" for name in orchestrator.end_orphans([run.id for run in lost])]
    for run in lost:
        message = f"{place.params.project.name}: {run.deployment} {run.state.lower()}: {run.message}"
        evidence = {"flow_run": run.id, "state": run.state, "name": run.name}
        is_new = alerts.raise_alert(
            place.ledger, place.listeners, id=f"run:{run.id}", kind=f"flow run {run.state.lower()}", message=message,
            evidence=evidence,
        )  # fmt: skip
        told += [message] if is_new else []
    return told
