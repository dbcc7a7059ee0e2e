"""What a replay's rollouts came to, read from the ledger: their steps, what they were decided on, and how many answers
came from a model that was later found worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stores.ledger import Ledger, Rollout, RolloutStep
from trimtab.rollout.state_machine import current_state

FOUND_WORSE = ("rolled back", "reverted")


def summarize_rollouts(ledger: Ledger) -> list[dict[str, Any]]:
    """Every rollout on live traffic, oldest first."""
    return [_rollout(ledger, row) for row in ledger.rollouts() if row.strategy == "rollout"]


def _rollout(ledger: Ledger, row: Rollout) -> dict[str, Any]:
    steps = ledger.rollout_steps(row.id)
    decided = next((s for s in steps if s.state in ("champion", "rolled back")), None)
    seen = (decided.evidence if decided else {}).get("seen") or {}
    at = current_state(steps)
    return {
        "id": row.id,
        "release": row.release,
        "version": ledger.model_version(row.release),
        "champion_before": row.champion_before,
        "cause": row.cause,
        "steps": [_step(steps[: number + 1]) for number in range(len(steps))],
        "state": at.title,
        "promoted": any(s.state == "champion" for s in steps),
        "verdict": "roll back" if seen.get("broken") else seen.get("verdict"),
        "labels": seen.get("labels", 0),
        "answers": at.exposed_before,
        "exposure": at.exposed_before if _was_found_worse(steps) else 0,
    }


def _step(steps: Sequence[RolloutStep]) -> dict[str, Any]:
    evidence, at = steps[-1].evidence, current_state(steps)
    labels = (evidence.get("seen") or {}).get("labels", 0)
    return {
        "state": at.phase, "share": at.share, "labels": labels, "exposed": at.exposed_before,
        "reason": evidence.get("reason", ""),
    }  # fmt: skip


def _was_found_worse(steps: Sequence[RolloutStep]) -> bool:
    """Whether it went back for what was seen of it, and not for want of evidence or because it was overtaken."""
    last = steps[-1]
    seen = last.evidence.get("seen") or {}
    return last.state in FOUND_WORSE and (seen.get("verdict") == "roll back" or bool(seen.get("broken")))


def format_lines(rollouts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rollouts as a person reads them."""
    if not rollouts:
        return []
    text_lines = ["", "Rollouts:"]
    for found in rollouts:
        way = " → ".join(_word(s) for s in found["steps"] if s["state"] not in ("started", "probed"))
        verdict = f"{found['verdict']} after {found['labels']:,} labels" if found["verdict"] else "undecided"
        text_lines.append(
            f"  version {found['version']}: {way}; {verdict}, {found['answers']:,} answers in rollout and probation, "
            f"{found['exposure']:,} of them by a model found worse"
        )
    return text_lines


def _word(step: Mapping[str, Any]) -> str:
    return f"{step['share']:.0%}" if step["state"] == "canary" else str(step["state"])
