"""Make a candidate: read the rows of a dataset version, split, fit, and log everything to MLflow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import task

from operations.context import ProjectContext
from tasks import dataset, lineage, orchestrator, plots, tracking
from tasks.retries import RETRIED_CACHED
from trimtab.config.params import Params
from trimtab.data.schema import Schema
from trimtab.model import training
from trimtab.model.candidate import build_artifacts

SECTIONS = frozenset({"project", "source", "columns", "period", "train", "gate"})
"""The sections of params.yaml that a candidate depends on."""


def newest_period(ctx: ProjectContext, version: str) -> str:
    """The newest period with rows in a dataset version. Raises NoRows."""
    names = dataset.names(ctx.workspace, version, folder="accepted", remote=ctx.remote)
    if not names:
        raise dataset.NoRows(f"dataset version {version} has no accepted rows: run ingest and validate first")
    return names[-1]


def train_candidate(ctx: ProjectContext, version: str, as_of: str, pointer: str) -> str:
    """The MLflow run of the candidate for these rows: the one that was made before for the same inputs, if MLflow still
    has it, else a new one."""
    arguments: dict[str, Any] = {
        "project": ctx.root, "tracking_uri": ctx.tracking, "version": version, "as_of": as_of,
        "settings": ctx.params.model_dump(mode="json", by_alias=True, include=set(SECTIONS)),
        "schema": ctx.schema.dumps(), "code": lineage.code_state(), "pointer": pointer, "workspace": ctx.workspace,
        "remote": ctx.remote,
    }  # fmt: skip
    run_id: str = make_candidate(**arguments)
    if tracking.has_candidate(ctx.tracking, run_id):
        return run_id
    print(f"MLflow no longer has the candidate's run {run_id}: the candidate is made anew.")
    anew: str = make_candidate.with_options(refresh_cache=True)(**arguments)
    return anew


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
    """Read, split, fit, log; the MLflow run's id.

    Prefect caches the result by every argument and this function's source: the same inputs give the same candidate.
    """
    started = time.monotonic()
    params = Params.model_validate(settings)
    period = params.parse_period(as_of)
    rows = dataset.read(workspace, version, last=as_of, remote=remote)
    parts = training.split(rows, params, period)
    read_s = time.monotonic() - started
    fitted = training.fit_candidate(params, Schema.loads(schema), parts, project)
    fit_s = time.monotonic() - started - read_s
    facts = lineage.lineage(project, pointer=pointer, seed=params.train.seed)
    record, files = build_artifacts(fitted, parts, params, period, dataset=version, lineage=facts)
    truth = training.labels_of(parts.holdout, params)
    pictures = plots.candidate_plots(truth, fitted.scorer.score(parts.holdout), fitted.importances)
    run_id = tracking.log_candidate(
        tracking_uri, record=record, candidate=fitted, parts=parts, files=files, plots=pictures,
        flow_run=orchestrator.current_run_id(),
    )  # fmt: skip
    log_s = time.monotonic() - started - read_s - fit_s
    if fitted.left_out:
        print(f"Left out, as no row to train on has a value: {', '.join(fitted.left_out)}")
    print(f"{record.rows_train:,} rows: read {read_s:.1f} s, fit and weigh {fit_s:.1f} s, write and log {log_s:.1f} s")
    return run_id
