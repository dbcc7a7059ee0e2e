"""Train: a candidate from a dataset version, as an MLflow run with everything that made it."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from operations import datasets, training
from operations.context import load_context
from tasks import orchestrator, tracking
from tasks.best_effort import best_effort


def _name() -> str:
    return f"train-{flow_run.parameters.get('as_of') or 'newest'}"


@flow(flow_run_name=_name)
def train(as_of: str | None = None, dataset_hash: str | None = None) -> str:
    """Train a candidate on the window that ends with *as_of*; its MLflow run id.

    Args:
        as_of: newest period to use, like 2013-03; empty: the newest there is
        dataset_hash: dataset version; empty: the newest
    """
    ctx = load_context()
    head = datasets.current(ctx) if dataset_hash is None else None
    version = head.hash if head else str(dataset_hash)
    newest = as_of or training.newest_period(ctx, version)
    run_id = training.train_candidate(ctx, version, newest, head.pointer if head else f"outs:\n- md5: {version}\n")
    with best_effort("the link to the candidate"):
        orchestrator.show_link(
            "candidate", tracking.run_url(ctx.tracking, run_id), text=f"Candidate of {newest} in MLflow",
            about="The candidate's run, with its metrics, plots, inputs and lineage",
        )  # fmt: skip
    return run_id
