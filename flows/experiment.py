"""Experiment: two releases answer users side by side, each its share of the keys, for a stretch of data time. Then the
previous champion answers again, whatever was found: an experiment measures, and a rollout decides."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from operations import experiment_reports, experiments
from operations.context import load_context, short
from operations.live import find_release
from trimtab.experiment.report import ExperimentPlan


def _name() -> str:
    given = flow_run.parameters
    return f"experiment-{given.get('name') or short(given.get('a')) + '-' + short(given.get('b'))}"


@flow(flow_run_name=_name)
def experiment(
    a: str, b: str, share: float = 0.5, duration: str = "7d", name: str | None = None, instead: bool = False
) -> str:
    """Let *b* answer *share* of the keys and *a* the others; the report. The same again reports, and starts nothing.

    Args:
        a: digest of a release, or its first characters
        b: the other one
        share: of the keys that b answers, above 0 and below 1
        duration: of data time, like 7d
        name: to tell experiments apart; empty: made from the rest
        instead: also when a rollout or another experiment is open, which ends then
    """
    ctx = load_context()
    releases = {"a": find_release(ctx, a), "b": find_release(ctx, b)}
    plan = ExperimentPlan.model_validate({**releases, "share": share, "duration": duration, "name": name})
    if not experiments.has_begun(ctx, plan):
        experiments.load_and_probe(ctx, plan)
        experiments.begin(ctx, plan, instead=instead)
    return experiment_reports.publish(ctx, plan.id)
