"""Evaluate: the gate compares a candidate with the champion on rows that are newer than what either learned from."""

from __future__ import annotations

from prefect import flow, task
from prefect.runtime import flow_run

from operations import evaluation
from operations.context import load_context, short
from operations.releases import fetch_candidate
from tasks import tracking
from tasks.best_effort import best_effort
from tasks.retries import RETRIED

log_gate_result = task(name="log-gate-result", **RETRIED)(tracking.log_gate_result)


def _name() -> str:
    return f"evaluate-{short(flow_run.parameters.get('run_id'))}"


@flow(flow_run_name=_name)
def evaluate(run_id: str) -> bool:
    """Evaluate a candidate; whether it passed the gate. The same pair again gives the same result.

    Args:
        run_id: MLflow run of a candidate, as train gives it
    """
    ctx = load_context()
    candidate = fetch_candidate(ctx.tracking, run_id, cache=ctx.cache)
    live = ctx.ledger.live()
    champion = ctx.releases.get(live.champion) if live else None
    result, page = evaluation.compare(ctx, candidate, champion, live)
    evaluation.record(ctx, candidate, live, result)
    with best_effort("the gate's result in MLflow"):
        log_gate_result(
            ctx.tracking, run_id, passed=result.passed, reason=result.reason, evidence=result.evidence(), report=page
        )
    evaluation.show(ctx, run_id, result)
    return result.passed
