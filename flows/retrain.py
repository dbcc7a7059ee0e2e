"""Retrain: train, evaluate, register, deploy, in this order.

It ends when the new release is the challenger: how long its rollout takes depends on the users' requests, and
deploy/on-rollout watches it.
"""

from __future__ import annotations

from typing import Final

from prefect import flow
from prefect.runtime import flow_run

from flows.deploy import deploy
from flows.evaluate import evaluate
from flows.register import register
from flows.train import train
from operations import datasets, live, retrains, training
from operations.context import load_context, shared_heartbeat

SCHEDULED: Final = "auto-scheduled"
"""Prefect's tag. A schedule's own parameters are lost when it is paused and resumed in the UI."""


def _name() -> str:
    return f"retrain-{flow_run.parameters.get('decision') or 'scheduled'}"


@flow(flow_run_name=_name)
def retrain(
    decision: str | None = None, as_of: str | None = None, despite_block: bool = False, overtake: bool | None = None
) -> str:
    """Make a new model, and begin its rollout if it passes the gate.

    Returns `rolling out` (`promoted` when nothing was live) or `rejected`; `done before` when another run has done it,
    `blocked` when a scheduled run would learn from data that monitoring called broken, `waits` when it would end the
    rollout of another challenger.

    Args:
        decision: id of the decision that asks; empty: a scheduled run
        as_of: newest period to use, like 2013-03; empty: the newest there is
        despite_block: learn from data that monitoring called broken
        overtake: end the rollout of another challenger; empty: unless a schedule asked, as with new rows every night
            no rollout that takes longer would ever finish
    """
    ctx = load_context()
    if decision is None and not despite_block and (block := retrains.block(ctx)):
        return retrains.finish(ctx, decision, "blocked", period=block.period, reason=block.cause)
    waits_for_trial = SCHEDULED in flow_run.tags if overtake is None else not overtake
    if waits_for_trial and (trial := live.current_trial(ctx)):
        return retrains.finish(ctx, decision, "waits", rollout=trial.rollout.id)
    if decision and not retrains.claim(ctx, decision):
        print(f"Another run does the retrain for {decision}.")
        return "done before"
    cause = retrains.cause_of(ctx, decision)
    with shared_heartbeat():
        run_id = train(as_of or training.newest_period(ctx, datasets.current(ctx).hash))
        if not evaluate(run_id):
            gate = ctx.ledger.gate(run_id)
            return retrains.finish(ctx, decision, "rejected", run_id=run_id, reason=gate.reason if gate else "")
        if waits_for_trial and (trial := live.current_trial(ctx)):  # it began while this run was training
            return retrains.finish(ctx, decision, "waits", run_id=run_id, rollout=trial.rollout.id)
        release = register(run_id)
        result = "promoted" if deploy(release, cause, watch_s=0) == "champion" else "rolling out"
    now = ctx.ledger.live()
    rollout = now.rollout if now else None
    return retrains.finish(ctx, decision, result, run_id=run_id, release=release, rollout=rollout)
