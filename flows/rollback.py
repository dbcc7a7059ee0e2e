"""Rollback: the newest change of the live release is undone, in one step. A challenger goes; otherwise the previous
release answers again."""

from __future__ import annotations

from prefect import flow

from operations import experiments, live, rollouts
from operations.context import load_context, short
from tasks import orchestrator


@flow(flow_run_name="rollback")
def rollback(reason: str = "asked for by hand", to: str | None = None) -> int:
    """Undo the newest change; the ledger's version number. Raises ReleaseError for a damaged bundle.

    Args:
        reason: why, for the history
        to: a release; empty: the challenger goes, or the one before the live one comes back
    """
    ctx = load_context()
    if to is None and (ended := experiments.end_running(ctx, reason) or rollouts.end_current(ctx, reason)) is not None:
        return ended.version
    target, version = live.previous_release(ctx, to)
    ctx.releases.get(target)  # a damaged one would leave no release to answer
    now = ctx.ledger.switch(
        target, expected=version, move="rollback", reason=reason, actor=orchestrator.current_run_id()
    )
    live.follow(ctx, now)
    live.show_live(now)
    payload = {"release": target, "version": now.version, "reason": reason}
    ctx.emit("trimtab.rollout.rolled-back", id=f"live-{now.version}", payload=payload)
    ctx.raise_alert(
        f"live:{now.version}", kind="rolled back", message=f"rolled back to {short(target)}: {reason}", evidence=payload
    )
    return now.version
