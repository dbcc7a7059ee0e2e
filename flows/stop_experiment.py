"""Stop-experiment: an experiment ends before its time; the champion from before answers again, in one step."""

from __future__ import annotations

from prefect import flow

from operations import experiments
from operations.context import load_context


@flow(name="stop-experiment", flow_run_name="stop-experiment")
def stop_experiment(name: str | None = None, reason: str = "asked for by hand") -> str:
    """End an experiment; its report. One that has ended is only reported.

    Args:
        name: of the experiment; empty: the newest
        reason: why, for the history
    """
    ctx = load_context()
    row = experiments.named(ctx, name)
    experiments.end(ctx, row.id, reason)
    return experiments.publish(ctx, row.id)
