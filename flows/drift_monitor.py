"""Drift-monitor: compare what the live release saw in a period with what it was made from, and decide.

The decision is in the ledger before it is announced; the event is only the fast path to retrain.
"""

from __future__ import annotations

from prefect import flow

from operations import monitoring, rollouts
from operations.context import load_context
from tasks import orchestrator

NOT_LIVE = "nothing was live"


@flow(name="drift-monitor", flow_run_name="drift-monitor-{period}")
def drift_monitor(period: str, batch: str | None = None) -> str:
    """Decide what *period* asks for; the action. The same facts again give the same decision, recorded once.

    Args:
        period: like 2013-03
        batch: digest of the accepted batch that asks for this; empty when a person does
    """
    ctx = load_context()
    wanted = ctx.params.parse_period(period)
    period = str(wanted)  # 2024-3 is 2024-03
    work = monitoring.work_of(period, batch)
    if ctx.ledger.live() is None:
        ctx.ledger.record_outcome(work, NOT_LIVE, owner=orchestrator.current_run_id())
        print(f"{NOT_LIVE.capitalize()} yet: there is nothing to monitor in {period}.")
        return "none"
    for rollout, _ in rollouts.list_open(ctx):  # labels have arrived, on which a verdict may have waited
        rollouts.advance(ctx, rollout.id)
    live = ctx.ledger.live()
    assert live is not None  # what was live once has a successor
    release = ctx.releases.get(live.champion)
    answers = monitoring.answers_of(ctx, release, wanted)
    facts, page = monitoring.measure(ctx, release, answers, wanted)
    decision = monitoring.decide(ctx, facts, wanted)
    monitoring.record(ctx, decision)
    monitoring.announce(ctx, decision)  # before the pages, which only inform
    monitoring.publish(ctx, decision, page)
    ctx.ledger.record_outcome(
        work, decision.action, owner=orchestrator.current_run_id(), evidence={"decision": decision.id}
    )
    return decision.action
