"""Stop-experiment: an experiment ends before its time; the previous champion answers again, in one step."""

from __future__ import annotations

from prefect import flow

from operations import experiment_reports, experiments
from operations.context import load_context


@flow(name="stop-experiment", flow_run_name="stop-experiment")
def stop_experiment(name: str | None = None, reason: str = "asked for by hand") -> str:
    """End an experiment; its report. One that has ended is only reported.

    Args:
        name: of the experiment; empty: the newest
        reason: why, for the history
    """
    ctx = load_context()
    rollout = experiments.find(ctx, name)
    experiments.end(ctx, rollout.id, reason)
    return experiment_reports.publish(ctx, rollout.id)
