"""Announce the steps of rollouts: MLflow's aliases, an event, an alert, and a page of the flow run."""

from __future__ import annotations

from typing import Final

from operations import live as live_release
from operations.context import ProjectContext, short
from stores.ledger import LiveRelease, Rollout
from tasks import orchestrator
from tasks.best_effort import best_effort
from trimtab.data.markdown_text import as_cell
from trimtab.rollout.state_machine import Phase, RolloutState, current_state

EVENTS: Final[dict[Phase, str]] = {
    "champion": "trimtab.rollout.promoted", "rolled back": "trimtab.rollout.rolled-back",
    "reverted": "trimtab.rollout.rolled-back",
}  # fmt: skip


def announce(ctx: ProjectContext, rollout: Rollout, state: RolloutState, reason: str, live: LiveRelease) -> None:
    """Announce the step that led to *state*. Safe to repeat."""
    if state.phase in EVENTS:
        ctx.emit(
            EVENTS[state.phase], id=f"{rollout.id}-{state.steps}",
            payload={"release": rollout.release, "version": live.version, "cause": rollout.cause, "reason": reason},
        )  # fmt: skip
    alert(ctx, rollout, state)
    with best_effort("MLflow's aliases, until reconcile sets them,"):
        live_release.sync_aliases(ctx)
    with best_effort("the rollout's page"):
        about = f"Rollout of {short(rollout.release)}: {state.title}"
        orchestrator.show_markdown("rollout", to_markdown(ctx, rollout), about=about)


def alert(ctx: ProjectContext, rollout: Rollout, state: RolloutState) -> bool:
    """Raise the alert of a rollout that went back; False for another state, and when it was raised before."""
    if state.phase not in ("rolled back", "reverted"):
        return False
    version = ctx.ledger.model_version(rollout.release)
    what = "was rolled back" if state.phase == "rolled back" else "was champion and is taken back"
    reason = ctx.ledger.rollout_steps(rollout.id)[state.steps - 1].evidence.get("reason", "")
    return ctx.raise_alert(
        f"rollout:{rollout.id}:{state.steps}", kind=state.phase,
        message=f"version {version} ({short(rollout.release)}) {what}: {reason}",
        evidence={"release": rollout.release, "rollout": rollout.id},
    )  # fmt: skip


def to_markdown(ctx: ProjectContext, rollout: Rollout) -> str:
    """A rollout with its steps and its last observation, for people."""
    steps, last = ctx.ledger.rollout_steps(rollout.id), ctx.ledger.last_observation(rollout.id)
    lines = [
        f"## {current_state(steps).title}", "",
        f"Release `{short(rollout.release)}` against `{short(rollout.champion_before)}`: {rollout.cause}", "",
        "| step | state | answers users got | why |", "|---|---|---|---|",
    ]  # fmt: skip
    for count, step in enumerate(steps, start=1):
        exposed, reason = step.evidence.get("exposed", 0), step.evidence.get("reason", "")
        lines.append(f"| {step.number} | {current_state(steps[:count]).title} | {exposed:,} | {as_cell(reason)} |")
    if last is not None:
        found = f"after {last.pairs:,} pairs and {last.labels:,} labels: {last.evidence['reason']}"
        lines += ["", f"**{last.verdict}** {found}"]
    return "\n".join(lines)
