"""Rollback: the newest move is taken back, in one step. A release on trial is out; otherwise the release that was live
before answers again."""

from __future__ import annotations

from prefect import flow

from flows.deploy import follow, known_release
from operations import experiments, rollouts
from operations.context import ProjectContext, load_context
from stores import rollout_observation
from stores.ledger import ConflictError
from stores.object_store.store import ObjectStoreError
from stores.releases.bundle import UnreachableRelease
from tasks import alerts, orchestrator
from trimtab.rollout import state_machine
from trimtab.rollout.state_machine import Observation, Transition


class NothingBefore(RuntimeError):
    """There is no earlier release to go back to."""


@flow(flow_run_name="rollback")
def rollback(reason: str = "asked for by hand", to: str | None = None) -> int:
    """Take the newest move back; the ledger's version number. Raises ReleaseError for a damaged bundle.

    Args:
        reason: why, for the history
        to: a release; empty: the one on trial goes, or the one before the live one comes back
    """
    ctx = load_context()
    if to is None and (ended := end_trial(ctx, reason)) is not None:
        return ended
    target, now = previous(ctx, to)
    ctx.releases.get(target)  # one that is damaged would leave nobody to answer
    moved = ctx.ledger.switch(target, expected=now, move="rollback", reason=reason, actor=orchestrator.current_run_id())
    follow(ctx, moved)
    project = ctx.params.project.name
    payload = {"release": target, "version": moved.version, "reason": reason}
    orchestrator.emit("trimtab.rollout.rolled-back", project=project, id=f"live-{moved.version}", payload=payload)
    alerts.raise_alert(
        ctx.ledger, ctx.alert_channels, id=f"live:{moved.version}", kind="rolled back",
        message=f"{project}: rolled back to {target[:12]}: {reason}", evidence=payload,
    )  # fmt: skip
    return moved.version


def end_trial(ctx: ProjectContext, reason: str) -> int | None:
    """Take back the release that is on trial or in probation, or end the experiment that goes on; the ledger's version
    number, or None when there is none of these."""
    if (alone := experiments.make_way(ctx, reason)) is not None:
        return alone.version
    live = ctx.ledger.live()
    row = ctx.ledger.rollout(live.rollout) if live and live.rollout and live.challenger else None
    if live is None or row is None:
        return None
    steps = ctx.ledger.rollout_steps(row.id)
    at = state_machine.current_state(steps)
    if not (at.is_challenging or at.in_probation):
        return None
    seen = Observation(exposed=at.exposed_before)
    try:
        assert row.champion_before is not None  # a rollout on live traffic has a champion to be compared with
        ctx.releases.get(row.champion_before)
        seen = rollout_observation.observe_rollout(ctx.telemetry, row, steps)
    except (
        UnreachableRelease,
        ObjectStoreError,
    ) as error:  # the servers have both models loaded, and users need it now
        reason += f" (the store is away, so the answers are those until the last step: {error})"
    rollouts.take(ctx, row, at, seen, Transition("rolled back" if at.is_challenging else "reverted", 0.0, reason), live)
    now = ctx.ledger.live()
    if now is None or now.challenger is not None:
        raise ConflictError(live.version)
    return now.version


def previous(ctx: ProjectContext, to: str | None) -> tuple[str, int]:
    """The release to go back to, and the ledger version that was seen. Raises NothingBefore or NoSuchRelease.

    Going back twice goes back further: a release that was rolled back from is not gone back to.
    """
    history = ctx.ledger.history()
    if not history:
        raise NothingBefore("nothing is live yet: deploy a release first")
    if to is not None:
        return known_release(ctx, to), history[-1].version
    stack: list[str] = []
    for entry in history:
        if entry.move == "experiment":
            continue
        if entry.move == "rollback" and entry.champion in stack:
            last = len(stack) - 1 - stack[::-1].index(entry.champion)
            del stack[last + 1 :]
        elif stack[-1:] != [entry.champion]:
            stack.append(entry.champion)
    if len(stack) < 2:
        raise NothingBefore(f"{stack[-1][:12]} is the first release: there is none before it")
    return stack[-2], history[-1].version
