"""Evaluate a candidate: compare it with the champion on the same rows, and record and show the gate's result."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from prefect import task

from operations.context import ProjectContext
from stores.ledger import GateRecord, LiveRelease
from stores.releases import bundle
from stores.releases.backend import load_scorer
from stores.releases.bundle import Bundle
from tasks import dataset, orchestrator, reports, tracking
from tasks.best_effort import best_effort
from tasks.retries import RETRIED
from tasks.tracking import CandidateArtifacts
from trimtab.data.markdown_text import as_cell
from trimtab.evaluation import gate
from trimtab.evaluation.gate import GateResult
from trimtab.evaluation.metrics import Interval
from trimtab.model import training
from trimtab.model.candidate import PROFILE_FILE, Profile
from trimtab.model.release import MODEL
from trimtab.model.scoring import Scorer, Scores

if TYPE_CHECKING:
    import pandas as pd

report_performance = task(name="report-performance", **RETRIED)(reports.performance_report)


def compare(
    ctx: ProjectContext, candidate: CandidateArtifacts, champion: Bundle | None, live: LiveRelease | None
) -> tuple[GateResult, str | None]:
    """The gate's result for the candidate, and Evidently's page; no page for a model that is live already, nor when it
    cannot be drawn."""
    if (role := live_role(ctx, candidate, live)) is not None:
        return _unchanged(ctx, candidate, role), None
    rows = fresh_rows(ctx, candidate, champion)
    truth, allow = training.labels_of(rows, ctx.params), ctx.settings.trusted_types
    new = scorer_for(candidate, allow).score(rows)
    old = load_scorer(champion, allow=allow).score(rows) if champion else None
    page = None
    with best_effort("Evidently's page of the candidate"):
        page = report_performance(
            truth, _answers(new), task=ctx.params.project.task, period=candidate.record.as_of,
            reference=(truth, _answers(old)) if old else None,
        )  # fmt: skip
    return gate.evaluate_gate(ctx.params.gate, truth, new, old, slices=rows), page


def live_role(ctx: ProjectContext, candidate: CandidateArtifacts, live: LiveRelease | None) -> str | None:
    """`champion` or `challenger` when the candidate is the same model as that; None for another model."""
    if live is None:
        return None
    for role, digest in (("champion", live.champion), ("challenger", live.challenger)):
        if digest is not None:
            known = ctx.releases.get(digest).manifest.model_digest
            if known == candidate.record.model_digest:
                return role
    return None


def _unchanged(ctx: ProjectContext, candidate: CandidateArtifacts, role: str) -> GateResult:
    """The gate's result for a candidate that is live already: it does not pass."""
    known = candidate.record.metrics[ctx.params.gate.metric]
    same = Interval(known, known, known)
    reason = f"the candidate is the same model as the {role}: there is nothing to release"
    return GateResult(False, reason, ctx.params.gate.metric, candidate.record.rows_holdout, same, same, None)


def fresh_rows(ctx: ProjectContext, candidate: CandidateArtifacts, champion: Bundle | None) -> pd.DataFrame:
    """Labelled rows of the candidate's dataset that neither model learned from. Raises NotEnoughData."""
    import pandas as pd

    record, columns = candidate.record, ctx.params.columns
    cuts = [record.cut]
    if champion:
        cuts.append(Profile.model_validate_json(champion.read(PROFILE_FILE)).cut)
    rows = dataset.read(ctx.workspace, record.dataset, last=record.as_of, remote=ctx.remote)
    fresh = rows[(rows[columns.time] >= pd.Timestamp(max(cuts))) & rows[columns.target].notna()]
    if fresh.empty:
        raise training.NotEnoughData(
            f"no labelled rows from {max(cuts)} on in the data of {record.as_of}: the champion has learned from newer "
            "data than this candidate was made for; train with a newer as_of"
        )
    return fresh.sort_values([columns.time, columns.id], ignore_index=True)


def scorer_for(candidate: CandidateArtifacts, allow: Collection[str] = ()) -> Scorer:
    """The candidate's scorer. Loads no types but the trusted ones and those in *allow*."""
    record = candidate.record
    content = (candidate.folder / MODEL).read_bytes()
    model = bundle.load_model(content, digest=record.model_digest, trusted=record.trusted_types, allow=allow)
    return Scorer(model, task=record.task, features=record.features, classes=record.classes)


def _answers(scores: Scores) -> object:
    """What a report compares with the truth: labels for multiclass, numbers otherwise."""
    return list(scores.labels) if scores.labels is not None else scores.prediction


def record(ctx: ProjectContext, candidate: CandidateArtifacts, live: LiveRelease | None, result: GateResult) -> None:
    """Record the gate's result; its id is a digest of what was compared, and at which version of the live release.

    A candidate that is the challenger fails, and may pass again once it was rolled back.
    """
    against, version = (live.champion, live.version) if live else (None, 0)
    compared = f"{candidate.run_id}|{against}|{version}|{ctx.params.gate.model_dump_json()}|{result.rows}"
    ctx.ledger.record_gate(
        GateRecord(
            id=hashlib.sha256(compared.encode()).hexdigest(), run_id=candidate.run_id, champion=against,
            passed=result.passed, reason=result.reason, evidence=result.evidence(),
        )
    )  # fmt: skip


@best_effort("the gate's page")
def show(ctx: ProjectContext, run_id: str, result: GateResult) -> None:
    """Show the gate's result on the flow run's page."""
    lines = [f"## {'Passed' if result.passed else 'Failed'}", "", result.reason]
    if result.slices:
        lines += ["", "| slice | rows | champion | candidate | difference (interval) | |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {as_cell(s.column)} = {as_cell(s.value)} | {s.rows:,} | {s.champion:.4f} | {s.candidate:.4f} "
            f"| {s.gain.value:+.4f} ({s.gain.low:+.4f} to {s.gain.high:+.4f}) | {'harmed' if s.harmed else ''} |"
            for s in result.slices
        ]
    lines += ["", f"[The candidate's run in MLflow]({tracking.run_url(ctx.tracking, run_id)})"]
    orchestrator.show_markdown("gate", "\n".join(lines), about="The gate's result for a candidate")
    print(result.reason)
