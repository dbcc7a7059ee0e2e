"""Train: a candidate from a dataset version, as an MLflow run with everything that made it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.runtime import flow_run

from operations import datasets
from operations.context import ProjectContext, load_context
from tasks import dataset, lineage, orchestrator, plots, tracking
from tasks.retries import RETRIED_CACHED
from trimtab.config.params import Params
from trimtab.data.schema import Schema
from trimtab.model import training
from trimtab.model.candidate import build_artifacts


def _name() -> str:
    return f"train-{flow_run.parameters.get('as_of') or 'newest'}"


@flow(flow_run_name=_name)
def train(as_of: str | None = None, dataset_hash: str | None = None) -> str:
    """A candidate trained on the window that ends with *as_of*; its MLflow run id.

    Args:
        as_of: newest period to use, like 2013-03; empty: the newest there is
        dataset_hash: dataset version; empty: the newest
    """
    ctx = load_context()
    now = datasets.current(ctx) if dataset_hash is None else None
    version = now.hash if now else str(dataset_hash)
    newest = as_of or newest_period(ctx, version)
    pointer = now.pointer if now else f"outs:\n- md5: {version}\n"
    run_id = make_candidate(
        project=ctx.root,
        tracking_uri=ctx.tracking,
        version=version,
        as_of=newest,
        settings=ctx.params.model_dump(
            mode="json", by_alias=True, include={"project", "source", "columns", "period", "train", "gate"}
        ),
        schema=ctx.schema.dumps(),
        code=lineage.code_state(),
        pointer=pointer,
        workspace=ctx.workspace,
        remote=ctx.remote,
    )
    orchestrator.show_link(
        "candidate", tracking.run_url(ctx.tracking, run_id), text=f"Candidate of {newest} in MLflow",
        about="The candidate's run, with its metrics, plots, inputs and lineage",
    )  # fmt: skip
    return run_id


def newest_period(ctx: ProjectContext, version: str) -> str:
    """The newest period whose rows are in a dataset version."""
    names = dataset.names(ctx.workspace, version, folder="accepted", remote=ctx.remote)
    if not names:
        raise dataset.NoRows(f"dataset version {version} has no accepted rows: run ingest and validate first")
    return names[-1]


@task(persist_result=True, **RETRIED_CACHED)
def make_candidate(
    project: Path,
    tracking_uri: str,
    version: str,
    as_of: str,
    settings: dict[str, Any],
    schema: str,
    code: str,
    pointer: str,
    workspace: Path,
    remote: dataset.Remote | None,
) -> str:
    """Read, split, fit, log. Cached by all that goes in: the same inputs have made their candidate already."""
    started = time.monotonic()
    params = Params.model_validate(settings)
    period = params.parse_period(as_of)
    rows = dataset.read(workspace, version, last=as_of, remote=remote)
    parts = training.split(rows, params, period)
    read_s = time.monotonic() - started
    fitted = training.fit_candidate(params, Schema.loads(schema), parts, project)
    fit_s = time.monotonic() - started - read_s
    facts = lineage.lineage(project, pointer=pointer, seed=params.train.seed)
    paper, files = build_artifacts(fitted, parts, params, period, dataset=version, lineage=facts)
    truth = training.labels_of(parts.holdout, params)
    figures = plots.candidate_figures(truth, fitted.scorer.score(parts.holdout), fitted.importances)
    run_id = tracking.log_candidate(
        tracking_uri, paper=paper, candidate=fitted, parts=parts, files=files, figures=figures,
        flow_run=orchestrator.current_run_id(),
    )  # fmt: skip
    log_s = time.monotonic() - started - read_s - fit_s
    print(f"{paper.rows_train:,} rows: read {read_s:.1f} s, fit and weigh {fit_s:.1f} s, write and log {log_s:.1f} s")
    return run_id
