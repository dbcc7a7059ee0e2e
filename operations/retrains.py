"""Which run does the retrain that a decision asks for, and what came of it.

A decision's retrain happens once, however often it is asked for: a claim in the ledger decides which run does it, and
its outcome says that it is done.
"""

from __future__ import annotations

from typing import Final

from operations.context import ProjectContext
from stores.ledger import DecisionRecord
from tasks import orchestrator

MAX_ATTEMPTS: Final = 3
ACTIVE: Final = {"SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"}


def work_of(decision: str) -> str:
    """The ledger's name for the retrain that *decision* asks for."""
    return f"retrain:{decision}"


def block(ctx: ProjectContext) -> DecisionRecord | None:
    """The newest period's last decision, when it calls the data broken."""
    decisions = ctx.ledger.decisions()
    newest = max(decisions, key=lambda d: d.period, default=None)
    last = [d for d in decisions if newest and d.period == newest.period][-1:]
    return last[0] if last and last[0].action == "block" else None


def claim(ctx: ProjectContext, decision: str) -> bool:
    """Claim the retrain for this flow run; False when another run does it, or has done it.

    The claim of a lost run can be taken over.
    """
    work, me = work_of(decision), orchestrator.current_run_id()
    if work in ctx.ledger.outcomes():
        return False
    attempt = next_attempt(ctx, work, me=me)
    return attempt is not None and ctx.ledger.claim(work, me, attempt=attempt)


def next_attempt(ctx: ProjectContext, work: str, *, me: str | None = None) -> int | None:
    """The number of the next attempt at *work*, from 1; None while a run is at it, and after MAX_ATTEMPTS lost runs.

    The run *me* gets the attempt that it holds.
    """
    held = ctx.ledger.claims(work)
    if not held:
        return 1
    newest = held[-1]
    if newest.owner == me:
        return newest.attempt
    if orchestrator.run_state(newest.owner) in ACTIVE or newest.attempt >= MAX_ATTEMPTS:
        return None
    return newest.attempt + 1


def cause_of(ctx: ProjectContext, decision: str | None) -> str:
    """Why the retrain happens, for the history. Raises LookupError for an unknown decision."""
    if decision is None:
        return "scheduled retrain"
    found = ctx.ledger.decision(decision)
    if found is None:
        raise LookupError(f"the ledger has no decision {decision}: nothing asks for this retrain")
    return f"{found.period}: {found.cause}"


def finish(ctx: ProjectContext, decision: str | None, result: str, **evidence: object) -> str:
    """Record the outcome, once, and show it on the flow run's page; *result*."""
    me = orchestrator.current_run_id()
    work = work_of(decision or f"run:{me}")
    ctx.ledger.record_outcome(work, result, owner=me, evidence=dict(evidence))
    orchestrator.show_markdown(
        "retrain", "\n".join(f"- {key}: `{value}`" for key, value in {"result": result, **evidence}.items()),
        about=f"Retrain: {result}",
    )  # fmt: skip
    print(f"Retrain: {result}")
    return result
