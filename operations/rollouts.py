"""Advance rollouts: observe one in telemetry and take the step that this allows.

Used by deploy, which watches a rollout for a while, by reconcile every minute, and by drift-monitor when labels have
arrived. A step and its effect on the live release are one transaction in the ledger, so any of them may advance a
rollout at any time, be killed at any line, or run beside another: one takes the step, and the others see it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from operations import announcements, targets
from operations.context import ProjectContext, short
from stores import rollout_observation
from stores.ledger import (
    ConflictError,
    CurrentRollout,
    LiveRelease,
    Rollout,
    RolloutObservation,
    RolloutStep,
)
from stores.object_store.store import ObjectStoreError
from stores.releases.bundle import ReleaseError, UnreachableRelease
from tasks import model_server, orchestrator
from trimtab.rollout.state_machine import (
    Observation,
    Phase,
    RolloutPolicy,
    RolloutState,
    Transition,
    current_state,
    next_transition,
)

MOVES: Final[dict[Phase, str]] = {
    "shadow": "shadow", "canary": "canary", "champion": "promote", "rolled back": "rollback", "reverted": "rollback",
    "closed": "close",
}  # fmt: skip
POLL_S: Final = 0.25


@dataclass(frozen=True)
class RolloutUpdate:
    """A rollout's state after an observation; *stepped* when the observation led to a step."""

    state: RolloutState
    observation: Observation
    stepped: bool


def list_open(ctx: ProjectContext, *, newest: int = 5) -> list[tuple[Rollout, RolloutState]]:
    """Rollouts with a challenger, or in probation, oldest first, among the *newest*."""
    found = [(rollout, state_of(ctx, rollout.id)) for rollout in ctx.ledger.rollouts()[-newest:]]
    return [
        (rollout, state)
        for rollout, state in found
        if rollout.strategy == "rollout" and (state.is_challenging or state.in_probation)
    ]


def state_of(ctx: ProjectContext, id: str) -> RolloutState:
    """The state of a rollout."""
    return current_state(ctx.ledger.rollout_steps(id))


def watch(ctx: ProjectContext, id: str, watch_s: float) -> str:
    """Advance a rollout whenever telemetry has grown, until its trial is over or *watch_s* are; the state's title."""
    deadline, last = time.monotonic() + watch_s, None
    progress = orchestrator.ProgressArtifact("rollout-progress")
    while True:
        now = rollout_observation.telemetry_fingerprint(ctx.telemetry)
        if now != last:
            last, update = now, advance(ctx, id)
            title = update.state.title
            progress.show(update.state.share, about=f"{short(id)}: {title}, {update.observation.reason}")
            if not update.state.is_challenging:
                return title
            if update.stepped:
                last = None
                continue
        if time.monotonic() >= deadline:
            title = state_of(ctx, id).title
            print(f"{title}: from here on reconcile advances it every minute.")
            return title
        time.sleep(POLL_S)


def advance(ctx: ProjectContext, id: str) -> RolloutUpdate:
    """Observe a rollout and take at most one step. Raises LookupError for an unknown id."""
    rollout = ctx.ledger.rollout(id)
    if rollout is None:
        raise LookupError(f"the ledger has no rollout {id}")
    steps, live = ctx.ledger.rollout_steps(id), ctx.ledger.live()
    state = current_state(steps)
    if not (state.is_challenging or state.in_probation):
        return RolloutUpdate(state, Observation(), stepped=False)
    if live is None or live.rollout != id:
        return _superseded(ctx, rollout, state, live)
    current = CurrentRollout(live, rollout, tuple(steps))
    seen = _observe(ctx, current)
    _record_observation(ctx, id, state, seen)
    step = next_transition(state, seen, RolloutPolicy.model_validate(rollout.policy))
    if step is None:
        return RolloutUpdate(state, seen, stepped=False)
    if step.phase == "champion" and (damage := _damage(ctx, rollout.release)):
        step = Transition("rolled back", 0.0, damage)
    return apply(ctx, current, seen, step)


def _observe(ctx: ProjectContext, current: CurrentRollout) -> Observation:
    """The observation from telemetry; a challenger that the model server refuses counts as a broken guardrail."""
    state = current.state
    refusal = model_server.refusal_reason(ctx.server, current.rollout.release) if state.is_challenging else None
    try:
        seen = rollout_observation.observe_rollout(ctx.telemetry, current.rollout, current.steps)
    except ObjectStoreError:
        if refusal is None:
            raise
        seen = Observation(exposed=state.exposed_before)  # a refused release goes back without the store, too
    if refusal is None:
        return seen
    return seen.model_copy(update={"broken": (*seen.broken, f"the model server does not load it: {refusal}")})


def _damage(ctx: ProjectContext, digest: str) -> str | None:
    """What is wrong with a bundle on disk: servers that hold it in memory could not load it again."""
    try:
        ctx.releases.get(digest)
    except UnreachableRelease:
        raise  # the store does not answer, which says nothing against the release
    except ReleaseError as error:
        return str(error)
    return None


def apply(ctx: ProjectContext, current: CurrentRollout, seen: Observation, step: Transition) -> RolloutUpdate:
    """Write a step to the ledger, let everything follow it, and announce it.

    When another writer was faster, return the state that it made.
    """
    rollout, live = current.rollout, current.live
    reason = step.reason
    if step.phase in ("rolled back", "reverted"):
        reason += f"; by then users had got {seen.exposed:,} of its answers"
    evidence = {
        "share": step.share, "reason": reason, "exposed": seen.exposed, "labels_until": seen.labels_until,
        "seen": seen.model_dump(mode="json"),
    }  # fmt: skip
    champion, challenger = _roles_after(rollout, step.phase)
    try:
        now = ctx.ledger.switch(
            champion, expected=live.version, move=MOVES[step.phase], reason=reason,
            actor=orchestrator.current_run_id(), rollout=rollout.id, challenger=challenger,
            challenger_share=step.share if step.phase == "canary" else 0.0,
            step=RolloutStep(rollout.id, current.state.steps + 1, step.phase, evidence),
        )  # fmt: skip
    except ConflictError:
        return RolloutUpdate(state_of(ctx, rollout.id), seen, stepped=True)
    after = state_of(ctx, rollout.id)
    print(f"{short(rollout.release)}: {after.title}: {reason}")
    targets.follow(ctx)
    if not model_server.wait_for_version(ctx.server, now.version):
        print("The model server has not followed the ledger yet; it will when it is back.")
    announcements.announce(ctx, rollout, after, reason, now)
    return RolloutUpdate(after, seen, stepped=True)


def _roles_after(rollout: Rollout, phase: Phase) -> tuple[str, str | None]:
    """Champion and challenger after a step. In probation the previous champion is the challenger."""
    release, before = rollout.release, rollout.champion_before
    assert before is not None  # only a `switch` has none
    match phase:
        case "champion":
            return release, before
        case "closed":
            return release, None
        case "rolled back" | "reverted":
            return before, None
        case _:
            return before, release


def _superseded(ctx: ProjectContext, rollout: Rollout, state: RolloutState, live: LiveRelease | None) -> RolloutUpdate:
    """End a rollout whose champion was replaced meanwhile: it has nothing left to decide."""
    reason = f"superseded: {live.move} of {short(live.champion)}" if live else "nothing is live any more"
    ctx.ledger.step_rollout(
        rollout.id, state.steps + 1, "ended", {"share": state.share, "exposed": state.exposed_before, "reason": reason}
    )
    return RolloutUpdate(state_of(ctx, rollout.id), Observation(), stepped=True)


def _record_observation(ctx: ProjectContext, id: str, state: RolloutState, seen: Observation) -> None:
    """Record an observation that differs from the last one."""
    last = ctx.ledger.last_observation(id)
    now = (state.title, seen.pairs, seen.labels, "roll back" if seen.broken else seen.verdict)
    if last is None or (last.state, last.pairs, last.labels, last.verdict) != now:
        ctx.ledger.record_observation(
            RolloutObservation(id, last.number + 1 if last else 1, *now, evidence=seen.model_dump(mode="json"))
        )


def end_current(ctx: ProjectContext, reason: str) -> LiveRelease | None:
    """Take back the challenger, or the champion in probation; the live release then, None when there is none of these.

    Works whatever the evidence is, and while the store does not answer. Raises ConflictError when another writer was
    faster.
    """
    current = ctx.ledger.current_rollout()
    if current is None or not (current.state.is_challenging or current.state.in_probation):
        return None
    before, state = current.rollout.champion_before, current.state
    assert before is not None  # only a `switch` has none
    seen = Observation(exposed=state.exposed_before)
    try:
        ctx.releases.get(before)
    except ReleaseError as error:
        # Users need it now, and the servers have both models loaded. But no release that is damaged becomes champion.
        if not (current.state.is_challenging or isinstance(error, UnreachableRelease)):
            raise
        reason += f" (the store is away or damaged: {error})"
    try:
        seen = rollout_observation.observe_rollout(ctx.telemetry, current.rollout, current.steps)
    except Exception as error:  # noqa: BLE001 - evidence of any kind that cannot be read stops no rollback
        reason += f" (its evidence cannot be read, so the answers are those until the last step: {error})"
    apply(ctx, current, seen, Transition("rolled back" if state.is_challenging else "reverted", 0.0, reason))
    now = ctx.ledger.live()
    if now is None or now.challenger is not None:
        raise ConflictError(current.live.version)
    return now
