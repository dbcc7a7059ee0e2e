"""Conduct a rollout: look at what telemetry says of it and take the step that this allows. Used by deploy, which stays
with a rollout for a while, by reconcile, which looks every minute, and by drift-monitor, when labels have come in.

A step and what it does to the live row are one transaction in the ledger, so any of them may look at any time, be
killed at any line, or meet another: one wins, and the others see what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from operations.context import ProjectContext, short
from operations.targets import contract
from stores import rollout_observation
from stores.ledger import ConflictError, LiveRelease, Rollout, RolloutObservation, RolloutStep
from stores.object_store.store import ObjectStoreError
from stores.releases import bundle as bundle_module
from stores.releases.bundle import Bundle
from tasks import alerts, model_server, orchestrator, tracking
from trimtab.rollout import losses, state_machine
from trimtab.rollout.state_machine import Observation, RolloutPolicy, RolloutState, Transition

MOVES = {
    "shadow": "shadow", "canary": "canary", "champion": "promote", "rolled back": "rollback", "reverted": "rollback",
    "closed": "close",
}  # fmt: skip
EVENTS = {
    "champion": "trimtab.rollout.promoted", "rolled back": "trimtab.rollout.rolled-back",
    "reverted": "trimtab.rollout.rolled-back",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Where a rollout stands after a look; *moved* when the look led to a step."""

    at: RolloutState
    seen: Observation
    moved: bool


def terms_of(ctx: ProjectContext, champion: str, challenger: str) -> RolloutPolicy:
    """What a rollout between these two will be judged by: the project's rules as they are now."""
    pair = [ctx.releases.get(digest) for digest in (champion, challenger)]
    return RolloutPolicy(
        **ctx.params.rollout.model_dump(),
        task=ctx.params.project.task,
        metric=ctx.params.gate.metric,
        metric_margin=ctx.params.gate.max_regression,
        metric_slices={c: m for c, m in ctx.params.gate.slices.items() if c in ctx.params.rollout.slices},
        classes={bundle.digest: bundle.manifest.classes for bundle in pair},
        cap=_cap(pair[0]) if ctx.params.project.task == "regression" else None,
    )


def _cap(champion: Bundle) -> float:
    """The error at which a loss is 1, from what the champion answered to its own reference rows."""
    rows = champion.reference()
    return losses.regression_cap(
        rows[champion.manifest.columns.target].to_numpy(dtype=float), rows["prediction"].to_numpy(dtype=float)
    )


def unfinished(ctx: ProjectContext, *, newest: int = 5) -> list[tuple[Rollout, RolloutState]]:
    """Rollouts that have not come to their end, oldest first, with where they stand; those that only switch left
    out, as deploy sees to these."""
    found = []
    for row in ctx.ledger.rollouts()[-newest:]:
        at = state_machine.current_state(ctx.ledger.rollout_steps(row.id))
        if row.strategy == "rollout" and (at.is_challenging or at.in_probation):
            found.append((row, at))
    return found


def advance(ctx: ProjectContext, id: str) -> Outcome:
    """Look at the rollout called *id*, and take at most one step."""
    row = ctx.ledger.rollout(id)
    if row is None:
        raise LookupError(f"the ledger has no rollout {id}")
    steps, live = ctx.ledger.rollout_steps(id), ctx.ledger.live()
    at = state_machine.current_state(steps)
    if not (at.is_challenging or at.in_probation):
        return Outcome(at, Observation(), moved=False)
    if live is None or live.rollout != id:
        return _overtaken(ctx, row, at, live)
    why = model_server.refusal_reason(ctx.server, row.release) if at.is_challenging else None
    try:
        seen = rollout_observation.observe_rollout(ctx.telemetry, row, steps)
    except ObjectStoreError:
        if why is None:
            raise
        seen = Observation(exposed=at.exposed_before)  # the store is away; what the servers refuse goes without it
    if why is not None:
        seen = seen.model_copy(update={"broken": (*seen.broken, f"the model server will not have it: {why}")})
    _keep_look(ctx, id, at, seen)
    move = state_machine.next_transition(at, seen, RolloutPolicy.model_validate(row.policy))
    if move is None:
        return Outcome(at, seen, moved=False)
    if move.phase == "champion" and (damage := _damage(ctx, row.release)):
        move = Transition("rolled back", 0.0, damage)
    return take(ctx, row, at, seen, move, live)


def _damage(ctx: ProjectContext, digest: str) -> str | None:
    """What is wrong with a bundle on disk: servers that hold it in memory could not load it again."""
    try:
        ctx.releases.get(digest)
    except bundle_module.UnreachableRelease:
        raise  # which says nothing against the release
    except bundle_module.ReleaseError as error:
        return str(error)
    return None


def take(
    ctx: ProjectContext, row: Rollout, at: RolloutState, seen: Observation, move: Transition, live: LiveRelease
) -> Outcome:
    """Take a step: the ledger says so in one transaction, then the others follow. Losing a race is no error."""
    reason = move.reason
    if move.phase in ("rolled back", "reverted"):
        reason += f"; by then users had got {seen.exposed:,} of its answers"
    step = RolloutStep(
        row.id, at.steps + 1, move.phase,
        {
            "share": move.share, "reason": reason, "exposed": seen.exposed, "labels_until": seen.labels_until,
            "seen": seen.model_dump(mode="json"),
        },
    )  # fmt: skip
    champion, challenger = _who(row, move)
    try:
        now = ctx.ledger.switch(
            champion, expected=live.version, move=MOVES[move.phase], reason=reason, actor=orchestrator.current_run_id(),
            rollout=row.id, challenger=challenger,
            challenger_share=move.share if move.phase == "canary" else 0.0, step=step,
        )  # fmt: skip
    except ConflictError:
        return Outcome(state_machine.current_state(ctx.ledger.rollout_steps(row.id)), seen, moved=True)
    after = state_machine.current_state(ctx.ledger.rollout_steps(row.id))
    print(f"{short(row.release)}: {after.title}: {reason}")
    contract.follow(ctx)
    if not model_server.wait_for_version(ctx.server, now.version):
        print("The model server has not followed the ledger yet; it will when it is back.")
    tell(ctx, row, after, reason, now)
    return Outcome(after, seen, moved=True)


def _who(row: Rollout, move: Transition) -> tuple[str, str | None]:
    """Champion and challenger after a step. In probation the one before goes on scoring in the other's ctx."""
    release, before = row.release, row.champion_before
    assert before is not None  # a rollout on live traffic has a champion to be compared with
    match move.phase:
        case "champion":
            return release, before
        case "closed":
            return release, None
        case "rolled back" | "reverted":
            return before, None
        case _:
            return before, release


def _overtaken(ctx: ProjectContext, row: Rollout, at: RolloutState, live: LiveRelease | None) -> Outcome:
    """Somebody made another release live meanwhile, so this rollout has nothing left to decide."""
    reason = f"overtaken: {live.move} of {short(live.champion)}" if live else "nothing is live any more"
    ctx.ledger.step_rollout(
        row.id, at.steps + 1, "ended", {"share": at.share, "exposed": at.exposed_before, "reason": reason}
    )
    return Outcome(state_machine.current_state(ctx.ledger.rollout_steps(row.id)), Observation(), moved=True)


def _keep_look(ctx: ProjectContext, id: str, at: RolloutState, seen: Observation) -> None:
    """A look that saw something new is kept: together they are the story of the verdict."""
    last = ctx.ledger.last_observation(id)
    verdict = "roll back" if seen.broken else seen.verdict
    now = (at.title, seen.pairs, seen.labels, verdict)
    if last is None or (last.state, last.pairs, last.labels, last.verdict) != now:
        ctx.ledger.record_observation(
            RolloutObservation(id, last.number + 1 if last else 1, *now, evidence=seen.model_dump(mode="json"))
        )


def tell(ctx: ProjectContext, row: Rollout, at: RolloutState, reason: str, live: LiveRelease) -> None:
    """Let everybody know of a step: alias, event, alert, artifact. Safe to repeat."""
    project = ctx.params.project.name
    if at.phase in EVENTS:
        champion = ctx.ledger.release(live.champion)
        if champion is not None:
            tracking.set_champion(
                ctx.tracking, name=champion.model_name, version=champion.model_version,
                out=ctx.ledger.model_version(row.release),
            )  # fmt: skip
        orchestrator.emit(
            EVENTS[at.phase], project=project, id=f"{row.id}-{at.steps}",
            payload={"release": row.release, "version": live.version, "cause": row.cause, "reason": reason},
        )  # fmt: skip
    warn(ctx, row, at)
    orchestrator.show_markdown("rollout", page(ctx, row), about=f"Rollout of {short(row.release)}: {at.title}")


def warn(ctx: ProjectContext, row: Rollout, at: RolloutState) -> bool:
    """Raise the alert of a rollout that went back; False when there is none, or it was raised before."""
    if at.phase not in ("rolled back", "reverted"):
        return False
    steps = ctx.ledger.rollout_steps(row.id)
    version = ctx.ledger.model_version(row.release)
    what = "was rolled back" if at.phase == "rolled back" else "was champion and is taken back"
    reason = steps[at.steps - 1].evidence.get("reason", "")
    message = f"{ctx.params.project.name}: version {version} ({short(row.release)}) {what}: {reason}"
    return alerts.raise_alert(
        ctx.ledger, ctx.alert_channels, id=f"rollout:{row.id}:{at.steps}", kind=at.phase, message=message,
        evidence={"release": row.release, "rollout": row.id},
    )  # fmt: skip


def page(ctx: ProjectContext, row: Rollout) -> str:
    """A rollout as people read it."""
    steps, look = ctx.ledger.rollout_steps(row.id), ctx.ledger.last_observation(row.id)
    lines = [
        f"## {state_machine.current_state(steps).title}", "",
        f"Release `{short(row.release)}` against `{short(row.champion_before)}`: {row.cause}", "",
        "| step | state | answers users got | why |", "|---|---|---|---|",
    ]  # fmt: skip
    for number, step in enumerate(steps, start=1):
        told, state = step.evidence, state_machine.current_state(steps[:number]).title
        lines.append(f"| {step.number} | {state} | {told.get('exposed', 0):,} | {told.get('reason', '')} |")
    if look is not None:
        lines += ["", f"**{look.verdict}** after {look.pairs:,} pairs and {look.labels:,} labels: "
                  f"{look.evidence['reason']}"]  # fmt: skip
    return "\n".join(lines)


def stamp(ctx: ProjectContext) -> tuple[Any, ...]:
    """Changes whenever there may be something new to see."""
    return rollout_observation.telemetry_fingerprint(ctx.telemetry)
