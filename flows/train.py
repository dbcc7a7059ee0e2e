"""Train: a candidate from a dataset version, as an MLflow run with everything that made it."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from operations import datasets, training
from operations.context import load_context
from tasks import lineage, orchestrator, tracking


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
    run_id = training.make_candidate(
        project=ctx.root,
        tracking_uri=ctx.tracking,
        version=version,
        as_of=newest,
        settings=ctx.params.model_dump(mode="json", by_alias=True, include=set(training.SECTIONS)),
        schema=ctx.schema.dumps(),
        code=lineage.code_state(),
        pointer=head.pointer if head else f"outs:\n- md5: {version}\n",
        workspace=ctx.workspace,
        remote=ctx.remote,
    )
    orchestrator.show_link(
        "candidate", tracking.run_url(ctx.tracking, run_id), text=f"Candidate of {newest} in MLflow",
        about="The candidate's run, with its metrics, plots, inputs and lineage",
    )  # fmt: skip
    return run_id
