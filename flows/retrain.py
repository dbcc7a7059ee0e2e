"""Retrain: train, evaluate, register, deploy, in this order; the loop's way of correcting course. It ends with the new
release on trial: what becomes of that takes as long as it takes users to ask, and deploy/on-rollout sees to it.

A decision's retrain happens once, however often it is asked for: the ledger's claim decides who does it, and its
outcome says that it is done."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.deploy import deploy
from flows.evaluate import evaluate
from flows.register import register
from flows.train import newest_period, train
from operations import datasets
from operations.context import ProjectContext, load_context, shared_heartbeat
from stores.ledger import DecisionRecord
from tasks import orchestrator
from trimtab.rollout import state_machine

MAX_ATTEMPTS = 3
# Prefect's tag. A schedule's own parameters are lost when somebody pauses and resumes it in the UI.
BY_SCHEDULE = "auto-scheduled"
ALIVE = {"SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"}


def _name() -> str:
    return f"retrain-{flow_run.parameters.get('decision') or 'scheduled'}"


@flow(flow_run_name=_name)
def retrain(
    decision: str | None = None, as_of: str | None = None, despite_block: bool = False, overtake: bool | None = None
) -> str:
    """A new model on trial if it passes the gate: `rolling out` (`promoted` when nothing was live) or `rejected`;
    `done before` when another run has seen to it, `blocked` when a scheduled run would learn from data that monitoring
    called broken, `waits` when it would overtake a release that is on trial.

    Args:
        decision: id of the decision that asks; empty: a scheduled run
        as_of: newest period to use, like 2013-03; empty: the newest there is
        despite_block: learn from data that monitoring called broken
        overtake: end the trial of a release that is on trial; empty: unless a schedule asked, as with new rows every
            night no trial that is longer would ever come to its end
    """
    ctx = load_context()
    work = work_of(decision) if decision else f"retrain:run:{orchestrator.current_run_id()}"
    if decision is None and not despite_block and (broken := blocked(ctx)):
        return finish(ctx, work, "blocked", period=broken.period, reason=broken.cause)
    patient = BY_SCHEDULE in flow_run.tags if overtake is None else not overtake
    if patient and (trial := is_challenging(ctx)):
        return finish(ctx, work, "waits", rollout=trial)
    if decision and not claimed(ctx, decision):
        print(f"{decision} is seen to by another run.")
        return "done before"
    cause = cause_of(ctx, decision)
    with shared_heartbeat():
        run_id = train(as_of or newest_period(ctx, datasets.current(ctx).hash))
        if not evaluate(run_id):
            gate = ctx.ledger.gate(run_id)
            return finish(ctx, work, "rejected", run_id=run_id, reason=gate.reason if gate else "")
        if patient and (trial := is_challenging(ctx)):  # which began while this run was training
            return finish(ctx, work, "waits", run_id=run_id, rollout=trial)
        release = register(run_id)
        state = deploy(release, cause, watch_s=0)
    live = ctx.ledger.live()
    result = "promoted" if state == "champion" else "rolling out"
    return finish(ctx, work, result, run_id=run_id, release=release, rollout=live.rollout if live else None)


def blocked(ctx: ProjectContext) -> DecisionRecord | None:
    """The decision that calls the newest period's data broken; None when the newest decision does not."""
    decisions = ctx.ledger.decisions()
    newest = max(decisions, key=lambda d: d.period, default=None)
    about = [d for d in decisions if newest and d.period == newest.period]
    return about[-1] if about and about[-1].action == "block" else None


def is_challenging(ctx: ProjectContext) -> str | None:
    """The rollout that is still open; None when there is none."""
    live = ctx.ledger.live()
    if live is None or live.rollout is None or live.challenger is None:
        return None
    return live.rollout if state_machine.current_state(ctx.ledger.rollout_steps(live.rollout)).is_challenging else None


def work_of(decision: str) -> str:
    """What the ledger calls the retrain that *decision* asks for."""
    return f"retrain:{decision}"


def claimed(ctx: ProjectContext, decision: str) -> bool:
    """Whether this run is the one that sees to *decision*. A claim whose run was lost can be taken over."""
    work = work_of(decision)
    if work in ctx.ledger.outcomes():
        return False
    attempt = next_attempt(ctx, work, me=orchestrator.current_run_id())
    return attempt is not None and ctx.ledger.claim(work, orchestrator.current_run_id(), attempt=attempt)


def next_attempt(ctx: ProjectContext, work: str, *, me: str | None = None) -> int | None:
    """The attempt that is free to be made on *work*; None while a run is at it, and after MAX_ATTEMPTS lost runs."""
    held = ctx.ledger.claims(work)
    if not held:
        return 1
    newest = held[-1]
    if newest.owner == me:
        return newest.attempt
    if orchestrator.run_state(newest.owner) in ALIVE or newest.attempt >= MAX_ATTEMPTS:
        return None
    return newest.attempt + 1


def cause_of(ctx: ProjectContext, decision: str | None) -> str:
    """Why, for the history."""
    if decision is None:
        return "scheduled retrain"
    found = ctx.ledger.decision(decision)
    if found is None:
        raise LookupError(f"the ledger has no decision {decision}: nothing asks for this retrain")
    return f"{found.period}: {found.cause}"


def finish(ctx: ProjectContext, work: str, result: str, **evidence: object) -> str:
    """Record the outcome, once."""
    ctx.ledger.record_outcome(work, result, owner=orchestrator.current_run_id(), evidence=dict(evidence))
    orchestrator.show_markdown(
        "retrain", "\n".join(f"- {key}: `{value}`" for key, value in {"result": result, **evidence}.items()),
        about=f"Retrain: {result}",
    )  # fmt: skip
    print(f"Retrain: {result}")
    return result
